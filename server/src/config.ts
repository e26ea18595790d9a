import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { StartupError } from './lib/errors.ts'
import type { Quotas } from './lib/quota.ts'
import { DEFAULT_RATE_LIMITS, type RateLimits } from './rate-limits/policies.ts'
import { closest } from './start/closest.ts'
import { type ConfigFile, lookUp, readConfigFile } from './start/config-file.ts'
import { isLoopback, SETTINGS } from './start/settings.ts'

/** Sizes that can be asked for. A plan that the operator changes later leaves existing instances as they are. */
export type Plan = { id: string; vcpus: number; memory_bytes: number; disk_bytes: number }

/** Where a publisher's signed image lists come from; `keyring` is a file or an address with public keys for gpgv; who may sign, the pinned fingerprints say. */
export type Mirror = { url: string; keyring: string; fingerprints: string[] }

/**
 * The whole configuration, validated once at start; nobody else reads flags, the environment or config.json. Strings
 * that are folders are absolute.
 */
export type Config = {
  version: string
  host: string
  port: number
  /** Base of the links in answers, without a slash at the end. */
  public_url: string
  data_dir: string
  /** Short folder for unix sockets, one per installation. */
  run_dir: string
  /** Null: the embedded PostgreSQL. */
  database_url: string | null
  /** The same database by roles in cn_app and cn_engine; null: roles that are made at start. */
  database_app_url: string | null
  database_engine_url: string | null
  log_level: string
  region: { id: string; name: string }
  plans: Plan[]
  accelerator: 'auto' | 'kvm' | 'tcg'
  capacity: {
    vcpus_per_core: number
    /** Null: what the host has, less a reserve for the host itself. */
    memory_bytes: number | null
    disk_bytes: number | null
  }
  /** What a project may use in its live and in its test environment; what is not named here has no limit. */
  quotas: { live: Partial<Quotas>; test: Partial<Quotas> }
  /** Range that live public addresses come from; null: the installation's own loopback block. */
  public_addresses: string | null
  /** CIDRs beyond the public internet from which images may be fetched. */
  image_allow: string[]
  /** The same for webhooks; only these may be reached without TLS. */
  webhook_allow: string[]
  /** `host:port` of an HTTP proxy through which webhooks are sent; null: none. */
  webhook_proxy: string | null
  /** Days that deliveries of webhooks and their attempts are kept. */
  webhook_log_days: number
  /** CIDRs of proxies whose X-Forwarded-For says who the client is. */
  trusted_proxies: string[]
  image_max_bytes: number
  image_stall_timeout_seconds: number
  /** Days that the request log is kept, today aside. */
  request_log_days: number
  /** Days of its environment's time that an event is kept. */
  events_days: number
  /** Instances that are started at the same time after a reboot of the host. */
  recovery: { concurrency: number }
  /** `address:port` of a listener for Prometheus alone, without a key; null: none. */
  metrics_listen: string | null
  /** By publisher: 'ubuntu'. */
  mirrors: Record<string, Mirror>
  rate_limits: RateLimits
}

/** What can be read before the data directory is: no run folder yet, and links may still depend on the port. */
export type Settings = Omit<Config, 'run_dir' | 'public_url'> & { public_url: string | null }

/** What the command line asks for. */
export type Invocation = { kind: 'run'; settings: Settings } | { kind: 'help' } | { kind: 'version' }

type Environment = Record<string, string | undefined>

const MIB = 2 ** 20
const GIB = 2 ** 30

/** UEC Image Automatic Signing Key <cdimage@ubuntu.com>; on Ubuntu hosts it is in the package ubuntu-keyring. */
const UBUNTU_FINGERPRINT = 'D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81'
const UBUNTU_KEYRING = '/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg'
const UBUNTU_KEY_ADDRESS = `https://keyserver.ubuntu.com/pks/lookup?op=get&options=mr&search=0x${UBUNTU_FINGERPRINT}`

const DEFAULTS: Omit<Settings, 'version' | 'image_allow' | 'webhook_allow'> = {
  host: '127.0.0.1',
  port: 8080,
  public_url: null,
  data_dir: './data',
  database_url: null,
  database_app_url: null,
  database_engine_url: null,
  log_level: 'info',
  region: { id: 'us-east-1', name: 'US East 1' },
  plans: [
    { id: 'micro-1x', vcpus: 1, memory_bytes: 128 * MIB, disk_bytes: GIB },
    { id: 'standard-1x', vcpus: 1, memory_bytes: GIB, disk_bytes: 10 * GIB },
    { id: 'standard-2x', vcpus: 2, memory_bytes: 2 * GIB, disk_bytes: 20 * GIB },
    { id: 'standard-4x', vcpus: 4, memory_bytes: 8 * GIB, disk_bytes: 40 * GIB },
    { id: 'standard-8x', vcpus: 8, memory_bytes: 16 * GIB, disk_bytes: 80 * GIB },
  ],
  accelerator: 'auto',
  capacity: { vcpus_per_core: 8, memory_bytes: null, disk_bytes: null },
  quotas: { live: {}, test: {} },
  public_addresses: null,
  webhook_proxy: null,
  webhook_log_days: 30,
  trusted_proxies: [],
  image_max_bytes: 20 * GIB,
  image_stall_timeout_seconds: 60,
  request_log_days: 14,
  events_days: 30,
  recovery: { concurrency: 2 },
  metrics_listen: null,
  mirrors: {
    ubuntu: {
      url: 'https://cloud-images.ubuntu.com',
      keyring: existsSync(UBUNTU_KEYRING) ? UBUNTU_KEYRING : UBUNTU_KEY_ADDRESS,
      fingerprints: [UBUNTU_FINGERPRINT],
    },
  },
  rate_limits: DEFAULT_RATE_LIMITS,
}

/** Version of this release, from package.json. */
export function readVersion(): string {
  const text = readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

/** The folder for sockets that the login session gives to an ordinary user, if it does. */
export function userRuntimeFolder(): string | null {
  return process.env.XDG_RUNTIME_DIR || null
}

/**
 * Flag before variable before config.json before default. Throws a StartupError with a line for each mistake.
 * @param args the command line without node and script
 */
export function readConfig(args: string[], env: Environment = process.env, readFile = readConfigFile): Invocation {
  const { values, mistakes } = readFlags(args)
  if (values.help) return { kind: 'help' }
  if (values.version) return { kind: 'version' }
  mistakes.push(...unknownVariables(env))

  const given = new Map<string, unknown>()
  for (const { key, flag, env: name, parse, may_be_empty } of SETTINGS) {
    const [origin, text] =
      flag && values[flag.slice(2)] !== undefined ? [flag, values[flag.slice(2)]] : [name, name && env[name]]
    // An empty variable counts as not set, as shells and service files write it; an empty flag is a mistake.
    if (typeof text !== 'string' || !parse || (text === '' && origin === name && !may_be_empty)) continue
    try {
      given.set(key, parse(text))
    } catch (error) {
      mistakes.push(
        `${origin} must be ${(error as Error).message}${origin?.startsWith('DATABASE_') ? '' : `, not ${quote(text)}`}.`,
      )
    }
  }
  if (mistakes.length > 0) throw new StartupError(mistakes.join('\n'))

  const dataDir = resolve(String(given.get('data_dir') ?? DEFAULTS.data_dir))
  return { kind: 'run', settings: merge(given, readFile(join(dataDir, 'config.json')), dataDir) }
}

function merge(given: Map<string, unknown>, file: ConfigFile, dataDir: string): Settings {
  const none: string[] = []
  const settings = structuredClone({ ...DEFAULTS, version: readVersion(), image_allow: none, webhook_allow: none })
  for (const { key } of SETTINGS) {
    const value = given.get(key) ?? lookUp(file, key)
    if (value === undefined) continue
    const path = key.split('.')
    const last = path.pop()!
    const parent = path.length > 0 ? lookUp(settings, path.join('.')) : settings
    ;(parent as Record<string, unknown>)[last] = key === 'quotas' ? { ...DEFAULTS.quotas, ...(value as object) } : value
  }
  settings.data_dir = dataDir
  const roles = [settings.database_app_url, settings.database_engine_url].filter((url) => url !== null)
  if (roles.length === 1 || (roles.length === 2 && settings.database_url === null)) {
    throw new StartupError('DATABASE_APP_URL and DATABASE_ENGINE_URL go together, beside DATABASE_URL: give all three.')
  }
  for (const key of ['image_allow', 'webhook_allow'] as const) {
    const allowGiven = given.has(key) || file[key] !== undefined
    if (!allowGiven && isLoopback(settings.host)) settings[key] = ['127.0.0.0/8']
  }
  return settings
}

function readFlags(args: string[]): { values: Record<string, string | boolean | undefined>; mistakes: string[] } {
  const options: Record<string, { type: 'string' | 'boolean' }> = {
    help: { type: 'boolean' },
    version: { type: 'boolean' },
  }
  for (const { flag } of SETTINGS) if (flag) options[flag.slice(2)] = { type: 'string' }
  const { values, tokens } = parseArgs({ args, options, strict: false, tokens: true })
  const mistakes: string[] = []
  for (const token of tokens) {
    if (token.kind === 'positional') mistakes.push(`There is no argument ${quote(token.value)}; see --help.`)
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
  if (!option) return `There is no option ${token.rawName}${closest(token.rawName, known)}; see --help.`
  if (option.type === 'boolean') return token.value === undefined ? null : `${token.rawName} takes no value.`
  const swallowedFlag = !token.inlineValue && text.startsWith('--')
  return text === '' || swallowedFlag ? `${token.rawName} needs a value; see --help.` : null
}

function unknownVariables(env: Environment): string[] {
  const known = SETTINGS.flatMap((setting) => setting.env ?? [])
  return Object.keys(env)
    .filter((name) => name.startsWith('CLOUDNEXUS_') && !known.includes(name))
    .map((name) => `There is no setting ${name}${closest(name, known)}; see --help.`)
}

function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text)
}
