/** Reads and validates <data-dir>/config.json. */
import { statSync } from 'node:fs'
import { type TSchema, Type } from 'typebox'
import { Value } from 'typebox/value'
import { StartupError } from '../lib/errors.ts'
import { readFileOrNull } from '../lib/files.ts'
import { closest } from './closest.ts'
import { type Group, isSetting, type PartialValues, setValueAt, valueAt } from './setting.ts'
import { SETTING_LIST, SETTINGS } from './settings.ts'

export type ConfigFile = PartialValues<typeof SETTINGS>

const ConfigFile = schemaOf(SETTINGS)

/** Reads the file; returns {} when it does not exist. Throws a StartupError with one line for each mistake. */
export function readConfigFile(file: string): ConfigFile {
  const text = readFileOrNull(file)
  if (text === null) return {}
  const values = parseConfigFile(file, text)
  if (hasPassword(values) && (statSync(file).mode & 0o077) !== 0) {
    throw new StartupError(`${file} contains a password and other users can read it. Run: chmod 600 ${file}`)
  }
  return values
}

/** Whether a connection string contains a password, before the host or as a parameter. */
function hasPassword({ database_url, database_app_url, database_engine_url }: ConfigFile): boolean {
  return [database_url, database_app_url, database_engine_url].some(
    (url) => typeof url === 'string' && /^\w+:\/\/[^@/?]*:[^@/?]+@|[?&]password=/.test(url),
  )
}

/** The text of config.json → its values; throws a StartupError with one line for each mistake. */
export function parseConfigFile(file: string, text: string): ConfigFile {
  let fields: object
  try {
    fields = JSON.parse(text) as object
  } catch (error) {
    throw new StartupError(`${file} is not valid JSON: ${(error as Error).message}`)
  }
  const mistakes = [...Value.Errors(ConfigFile, fields)].flatMap((error) => describe(error))
  if (mistakes.length === 0) mistakes.push(...parseFields(fields))
  if (mistakes.length > 0) throw new StartupError(mistakes.map((mistake) => `${file}: ${mistake}`).join('\n'))
  return fields
}

/** Checks each value that a flag or variable could give by the same rules, and replaces it by the parsed value. */
function parseFields(fields: ConfigFile): string[] {
  const mistakes: string[] = []
  for (const { key, type } of SETTING_LIST) {
    const value = valueAt(fields, key)
    if (value === undefined || !type.parse) continue
    try {
      setValueAt(fields, key, type.parse(Array.isArray(value) ? value.join(',') : String(value)))
    } catch (error) {
      mistakes.push(`${key} must be ${(error as Error).message}`)
    }
  }
  const ids = (fields.plans ?? []).map((plan) => plan.id)
  if (new Set(ids).size < ids.length) mistakes.push('plans: two plans have the same id')
  return mistakes
}

function schemaOf(group: Group): TSchema {
  const properties = Object.entries(group)
    .filter(([, node]) => node.in_file !== false)
    .map(([name, node]) => [name, isSetting(node) ? node.type.schema : schemaOf(node)])
  return Type.Partial(Type.Object(Object.fromEntries(properties)), { additionalProperties: false })
}

type SchemaError = { keyword: string; instancePath: string; message: string; params: object }

function describe({ keyword, instancePath, message, params }: SchemaError): string[] {
  if (keyword === 'boolean') return []
  const path = instancePath.slice(1).replaceAll('/', '.')
  if (keyword !== 'additionalProperties') return [`${path || 'the file'} ${message}`]
  const known = [...Object.keys(SETTINGS), ...SETTING_LIST.map((setting) => setting.key)]
  return (params as { additionalProperties: string[] }).additionalProperties.map((name) => {
    const full = path ? `${path}.${name}` : name
    return `unknown field ${full}${closest(full, known)}`
  })
}
