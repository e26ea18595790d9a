/** What a setting is, and what derives from a tree of settings: the type of its values and the list of its keys. */
import type { SettingType } from './types.ts'

export type Setting<T = unknown, D = unknown> = {
  type: SettingType<T>
  flag?: `--${string}`
  env?: string
  /** A value, null, or a function of the address that the API listens on. */
  default: D
  /** Documents a default that is null or a function. */
  default_text?: string
  description: string
  /** An empty environment variable is a value; otherwise it counts as not set. */
  allow_empty?: true
  /** False: config.json cannot hold this setting. */
  in_file?: false
}

/** As in config.json, settings can be nested in groups. */
export type Group = { [name: string]: Setting | Group }

/** The values of a group of settings. */
export type Values<G> = { -readonly [K in keyof G]: G[K] extends Setting ? ValueOf<G[K]> : Values<G[K]> }
/** The same, where each value can be absent. */
export type PartialValues<G> = { [K in keyof G]?: G[K] extends Setting ? ValueOf<G[K]> : PartialValues<G[K]> }
type ValueOf<S> = S extends Setting<infer T, infer D> ? T | Extract<D, null> : never

/** A setting whose default has the type of the setting, or is null. */
export function setting<T>(definition: Setting<T, null>): Setting<T, null>
export function setting<T>(definition: Setting<T, Default<NoInfer<T>>>): Setting<T, Default<T>>
export function setting(definition: Setting): Setting {
  return definition
}
type Default<T> = T | ((host: string) => T)

export function isSetting(node: Setting | Group): node is Setting {
  return typeof node.description === 'string'
}

export type NamedSetting = Setting & { key: string }

/** All settings of a group, each with its path, such as 'capacity.memory_bytes'. */
export function listSettings(group: Group, prefix = ''): NamedSetting[] {
  return Object.entries(group).flatMap(([name, node]) =>
    isSetting(node) ? { ...node, key: `${prefix}${name}` } : listSettings(node, `${prefix}${name}.`),
  )
}

/** The value at a path such as 'capacity.memory_bytes'. */
export function valueAt(object: object, key: string): unknown {
  return key.split('.').reduce<unknown>((value, part) => (value as Record<string, unknown> | undefined)?.[part], object)
}

/** Sets the value at a path. Creates missing groups. */
export function setValueAt(object: object, key: string, value: unknown): void {
  const path = key.split('.')
  const last = path.pop()!
  let parent = object as Record<string, unknown>
  for (const part of path) {
    parent[part] ??= {}
    parent = parent[part] as Record<string, unknown>
  }
  parent[last] = value
}
