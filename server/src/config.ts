/** The configuration, validated once at start. No other file reads flags, the environment or config.json. */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { closest } from './config/closest.ts'
import { type ConfigFile, readConfigFile } from './config/file.ts'
import { setValueAt, type Values, valueAt } from './config/setting.ts'
import { SETTING_LIST, SETTINGS } from './config/settings.ts'
import { StartupError } from './lib/errors.ts'

export type { Plan } from './config/shapes.ts'

/** All settings as the operator gave them; `data_dir` is absolute. */
export type Settings = Values<typeof SETTINGS> & { version: string }

/** The settings with what is known only after the data directory is open. */
export type Config = Omit<Settings, 'public_url'> & {
  /** Base URL of links in responses, without a slash at the end. */
  public_url: string
  /** Folder for Unix sockets, one per installation; its path is short. */
  run_dir: string
}

/** What the command line requests. */
export type Invocation =
  | { kind: 'run'; settings: Settings; take_over: boolean }
  | { kind: 'help' }
  | { kind: 'version' }

type Environment = Record<string, string | undefined>

/** Version of this release, from package.json. */
export function readVersion(): string {
  const text = readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

/** The folder for sockets that the login session of an ordinary user provides, or null. */
export function userRuntimeFolder(): string | null {
  return process.env.XDG_RUNTIME_DIR || null
}

/** The settings when neither the command line nor the environment nor config.json sets any. */
export function defaultSettings(): Settings {
  return merge(new Map(), {})
}

/**
 * Reads all settings. A flag takes precedence over a variable, a variable over config.json, config.json over the default.
 * Throws a StartupError with one line for each mistake.
 * @param args the command line without node and script
 */
export function readConfig(args: string[], env: Environment = process.env, readFile = readConfigFile): Invocation {
  const { values, mistakes } = readFlags(args)
  if (values.help) return { kind: 'help' }
  if (values.version) return { kind: 'version' }
  mistakes.push(...unknownVariables(env))

  const given = new Map<string, unknown>()
  for (const { key, flag, env: variable, type, allow_empty } of SETTING_LIST) {
    const [origin, text] =
      flag && values[flag.slice(2)] !== undefined
        ? [flag, values[flag.slice(2)]]
        : [variable, variable && env[variable]]
    // Shells and service files write an unset variable as an empty one. An empty flag is a mistake.
    if (typeof text !== 'string' || !type.parse || (text === '' && origin === variable && !allow_empty)) continue
    try {
      given.set(key, type.parse(text))
    } catch (error) {
      const shown = origin?.startsWith('DATABASE_') ? '' : `, not ${quote(text)}`
      mistakes.push(`${origin} must be ${(error as Error).message}${shown}.`)
    }
  }
  if (mistakes.length > 0) throw new StartupError(mistakes.join('\n'))

  const dataDir = resolve(String(given.get('data_dir') ?? SETTINGS.data_dir.default))
  given.set('data_dir', dataDir)
  const settings = merge(given, readFile(join(dataDir, 'config.json')))
  return { kind: 'run', settings, take_over: values['take-over'] === true }
}

function merge(given: Map<string, unknown>, file: ConfigFile): Settings {
  const settings = { version: readVersion() } as Settings
  const value = (key: string) => given.get(key) ?? valueAt(file, key)
  const host = (value('host') ?? SETTINGS.host.default) as string
  for (const { key, default: fallback } of SETTING_LIST) {
    const defaultValue = typeof fallback === 'function' ? fallback(host) : fallback
    setValueAt(settings, key, structuredClone(value(key) ?? defaultValue))
  }
  const roles = [settings.database_app_url, settings.database_engine_url].filter((url) => url !== null)
  if (roles.length === 1 || (roles.length === 2 && settings.database_url === null)) {
    throw new StartupError(
      'DATABASE_APP_URL and DATABASE_ENGINE_URL require each other and DATABASE_URL: set all three.',
    )
  }
  return settings
}

function readFlags(args: string[]): { values: Record<string, string | boolean | undefined>; mistakes: string[] } {
  const options: Record<string, { type: 'string' | 'boolean' }> = {
    help: { type: 'boolean' },
    version: { type: 'boolean' },
    'take-over': { type: 'boolean' },
  }
  for (const { flag } of SETTING_LIST) if (flag) options[flag.slice(2)] = { type: 'string' }
  const { values, tokens } = parseArgs({ args, options, strict: false, tokens: true })
  const mistakes: string[] = []
  for (const token of tokens) {
    if (token.kind === 'positional') mistakes.push(`Unknown argument ${quote(token.value)}; see --help.`)
    if (token.kind !== 'option') continue
    const mistake = flagMistake(token, options)
    if (mistake) mistakes.push(mistake)
    if (mistake) delete values[token.name]
  }
  return { values: values as Record<string, string | boolean | undefined>, mistakes }
}

type FlagToken = { name: string; rawName: string; value?: string | undefined; inlineValue?: boolean | undefined }

function flagMistake(token: FlagToken, options: Record<string, { type: string }>): string | null {
  const option = options[token.name]
  const text = token.value ?? ''
  const known = Object.keys(options).map((name) => `--${name}`)
  if (!option) return `Unknown option ${token.rawName}${closest(token.rawName, known)}; see --help.`
  if (option.type === 'boolean') return token.value === undefined ? null : `${token.rawName} takes no value.`
  const isNextFlag = !token.inlineValue && text.startsWith('--')
  return text === '' || isNextFlag ? `${token.rawName} requires a value; see --help.` : null
}

function unknownVariables(env: Environment): string[] {
  const known = SETTING_LIST.flatMap((setting) => setting.env ?? [])
  return Object.keys(env)
    .filter((name) => name.startsWith('CLOUDNEXUS_') && !known.includes(name))
    .map((name) => `Unknown setting ${name}${closest(name, known)}; see --help.`)
}

function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)
}
