/**
 * Every setting there is. The command line, the environment, config.json, --help and the table in the README all come
 * from this one list.
 */
import { isIP } from 'node:net'
import { parseRange } from '../lib/outbound.ts'

export type Setting = {
  /** Path in config.json and in `Config`. */
  key: string
  flag?: string
  env?: string
  /** What stands for the value in --help. */
  value: string
  /** As shown to people; the real default is in config.ts. */
  default: string
  help: string
  /** Text of a flag or variable → value; throws an Error that says what is expected. */
  parse?: (text: string) => unknown
  /** An empty variable is a value: nothing at all. Else it counts as not set. */
  may_be_empty?: true
}

const RATE = '{ rate_per_second, burst }'

export const SETTINGS: Setting[] = [
  {
    key: 'port',
    flag: '--port',
    env: 'CLOUDNEXUS_PORT',
    value: 'NUMBER',
    default: '8080',
    help: 'Port of the API; 0 takes any free one',
    parse: integer(0, 65_535),
  },
  {
    key: 'host',
    flag: '--host',
    env: 'CLOUDNEXUS_HOST',
    value: 'ADDRESS',
    default: '127.0.0.1',
    help: 'Address to listen on; 0.0.0.0 or :: for all',
    parse: host,
  },
  {
    key: 'data_dir',
    flag: '--data-dir',
    env: 'CLOUDNEXUS_DATA_DIR',
    value: 'FOLDER',
    default: './data',
    help: 'Everything this installation keeps; a new or empty folder at the first start',
    parse: nonEmpty,
  },
  {
    key: 'public_url',
    flag: '--public-url',
    env: 'CLOUDNEXUS_PUBLIC_URL',
    value: 'URL',
    default: 'from host and port',
    help: 'Base of the links in answers',
    parse: publicUrl,
  },
  {
    key: 'log_level',
    flag: '--log-level',
    env: 'CLOUDNEXUS_LOG_LEVEL',
    value: 'LEVEL',
    default: 'info',
    help: 'debug, info, warn or error',
    parse: oneOf('debug', 'info', 'warn', 'error'),
  },
  {
    key: 'database_url',
    env: 'DATABASE_URL',
    value: 'URL',
    default: 'embedded PostgreSQL',
    help: 'A PostgreSQL (15 or newer) of your own; its role owns the tables and may make roles (CREATEROLE)',
    parse: databaseUrl,
  },
  {
    key: 'database_app_url',
    env: 'DATABASE_APP_URL',
    value: 'URL',
    default: 'a role that is made',
    help: 'The same database by a role in cn_app, where the role of DATABASE_URL may not make roles',
    parse: databaseUrl,
  },
  {
    key: 'database_engine_url',
    env: 'DATABASE_ENGINE_URL',
    value: 'URL',
    default: 'a role that is made',
    help: 'The same database by a role in cn_engine, together with DATABASE_APP_URL',
    parse: databaseUrl,
  },
  {
    key: 'accelerator',
    env: 'CLOUDNEXUS_ACCEL',
    value: 'NAME',
    default: 'auto',
    help: 'kvm, tcg, or auto: KVM if it is proven to work',
    parse: oneOf('auto', 'kvm', 'tcg'),
  },
  {
    key: 'capacity.vcpus_per_core',
    env: 'CLOUDNEXUS_VCPUS_PER_CORE',
    value: 'NUMBER',
    default: '8',
    help: 'Virtual CPUs handed out for each core of the host',
    parse: integer(1, 1_000),
  },
  {
    key: 'capacity.memory_bytes',
    env: 'CLOUDNEXUS_MEMORY_BYTES',
    value: 'BYTES',
    default: 'what the host has, less a reserve',
    help: 'Memory for instances',
    parse: integer(0, Number.MAX_SAFE_INTEGER),
  },
  {
    key: 'capacity.disk_bytes',
    env: 'CLOUDNEXUS_DISK_BYTES',
    value: 'BYTES',
    default: 'what the host has, less a reserve',
    help: 'Disk space for instances',
    parse: integer(0, Number.MAX_SAFE_INTEGER),
  },
  {
    key: 'quotas',
    value: 'OBJECT',
    default: 'no limit but the host',
    help: 'What a project may use, by environment (`live`, `test`): instances, vcpus, memory_bytes, disk_bytes, public_ips',
  },
  {
    key: 'public_addresses',
    env: 'CLOUDNEXUS_PUBLIC_ADDRESSES',
    value: 'CIDR',
    default: 'a loopback block of its own',
    help: 'IPv4 range that public addresses of live instances come from',
    parse: ipv4Range,
  },
  {
    key: 'trusted_proxies',
    env: 'CLOUDNEXUS_TRUSTED_PROXIES',
    value: 'CIDR,…',
    default: 'none',
    help: "Proxies of yours whose X-Forwarded-For names the client, for keys' address lists and in logs",
    parse: proxies,
  },
  {
    key: 'image_allow',
    env: 'CLOUDNEXUS_IMAGE_ALLOW',
    value: 'CIDR,…',
    default: '127.0.0.0/8 on a loopback host, else none',
    help: 'Addresses beyond the public internet from which images may be fetched',
    parse: ranges,
  },
  {
    key: 'webhook_allow',
    env: 'CLOUDNEXUS_WEBHOOK_ALLOW',
    value: 'CIDR,…',
    default: '127.0.0.0/8 on a loopback host, else none',
    help: 'Addresses beyond the public internet to which webhooks may be sent, also by http; empty: none at all',
    parse: ranges,
    may_be_empty: true,
  },
  {
    key: 'webhook_proxy',
    env: 'CLOUDNEXUS_WEBHOOK_PROXY',
    value: 'HOST:PORT',
    default: 'none',
    help: 'An HTTP proxy (CONNECT) through which webhooks are sent, to addresses that were checked before',
    parse: hostAndPort,
  },
  {
    key: 'webhook_log_days',
    env: 'CLOUDNEXUS_WEBHOOK_LOG_DAYS',
    value: 'DAYS',
    default: '30',
    help: 'How long deliveries of webhooks and their attempts are kept',
    parse: integer(4, 3_650),
  },
  {
    key: 'image_max_bytes',
    env: 'CLOUDNEXUS_IMAGE_MAX_BYTES',
    value: 'BYTES',
    default: '20 GiB',
    help: 'Largest image, as a file and as a disk',
    parse: integer(1, Number.MAX_SAFE_INTEGER),
  },
  {
    key: 'image_stall_timeout_seconds',
    env: 'CLOUDNEXUS_IMAGE_STALL_TIMEOUT_SECONDS',
    value: 'SECONDS',
    default: '60',
    help: 'An image source that makes no progress for so long has failed',
    parse: integer(1, 3_600),
  },
  {
    key: 'request_log_days',
    env: 'CLOUDNEXUS_REQUEST_LOG_DAYS',
    value: 'DAYS',
    default: '14',
    help: 'How long requests and their traces are kept',
    parse: integer(1, 3_650),
  },
  {
    key: 'events_days',
    env: 'CLOUDNEXUS_EVENTS_DAYS',
    value: 'DAYS',
    default: '30',
    help: "How long events are kept, in their environment's time",
    parse: integer(1, 3_650),
  },
  {
    key: 'recovery.concurrency',
    env: 'CLOUDNEXUS_RECOVERY_CONCURRENCY',
    value: 'NUMBER',
    default: '2',
    help: 'Instances that are started at the same time after a reboot of the host',
    parse: integer(1, 64),
  },
  {
    key: 'metrics_listen',
    env: 'CLOUDNEXUS_METRICS_LISTEN',
    value: 'ADDRESS:PORT',
    default: 'none',
    help: 'A listener of its own for Prometheus, which asks for no key; /metrics of the API needs one with the scope admin',
    parse: addressAndPort,
  },
  { key: 'region', value: '{ id, name }', default: 'us-east-1', help: 'The region that this host is' },
  {
    key: 'plans',
    value: '[{ id, vcpus, memory_bytes, disk_bytes }]',
    default: 'micro-1x, standard-1x to -8x',
    help: 'Sizes of instances',
  },
  {
    key: 'mirrors',
    value: '{ ubuntu: { url, keyring, fingerprints } }',
    default: "the publisher's own",
    help: 'Where catalogue images are fetched, and the keys that may sign their lists',
  },
  {
    key: 'rate_limits.enabled',
    env: 'CLOUDNEXUS_RATE_LIMITS',
    value: 'on|off',
    default: 'on',
    help: 'off: requests are not counted; for benchmarks (true or false in config.json)',
    parse: onOff,
  },
  {
    key: 'rate_limits.keys_per_project',
    value: 'NUMBER',
    default: '5',
    help: 'The keys of a project together may ask so many times what one key may, in each environment',
    parse: integer(1, 1_000),
  },
  { key: 'rate_limits.reads', value: RATE, default: '100/s, burst 1,000', help: 'GET requests of a key' },
  { key: 'rate_limits.writes', value: RATE, default: '20/s, burst 100', help: 'Other requests of a key' },
  {
    key: 'rate_limits.creates',
    value: RATE,
    default: '5/s, burst 50',
    help: 'Instances that a key creates; each spends a write, too',
  },
  {
    key: 'rate_limits.test_writes',
    value: RATE,
    default: '200/s, burst 2,000',
    help: 'The same as `writes` in test environments',
  },
  {
    key: 'rate_limits.test_creates',
    value: RATE,
    default: '200/s, burst 2,000',
    help: 'The same as `creates` in test environments',
  },
  {
    key: 'rate_limits.unauthenticated',
    value: RATE,
    default: '20/s, burst 200',
    help: 'Requests of an address for what needs no key',
  },
  {
    key: 'rate_limits.failed_authentication',
    value: RATE,
    default: '20/min, burst 20',
    help: 'Requests of an address without a valid key where one is needed',
  },
]

/** 'localhost' and the loopback addresses. */
export function isLoopback(address: string): boolean {
  return address === 'localhost' || address === '::1' || (isIP(address) === 4 && address.startsWith('127.'))
}

function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
    if (value >= min && value <= max) return value
    throw new Error(max === Number.MAX_SAFE_INTEGER ? 'a whole number' : `a whole number from ${min} to ${max}`)
  }
}

/** Also as the file says it. */
function onOff(text: string): boolean {
  if (/^(on|true)$/.test(text)) return true
  if (/^(off|false)$/.test(text)) return false
  throw new Error('on or off')
}

function oneOf(...names: string[]): (text: string) => string {
  return (text) => {
    if (names.includes(text)) return text
    throw new Error(`one of ${names.join(', ')}`)
  }
}

function nonEmpty(text: string): string {
  if (text === '' || text.includes('\0')) throw new Error('the name of a folder')
  return text
}

function host(text: string): string {
  const bare = text.replace(/^\[(.*)\]$/, '$1')
  if (isIP(bare) || /^(?=.*[a-z])[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/i.test(bare)) return bare
  throw new Error('an address of this machine, such as 127.0.0.1, ::1 or 0.0.0.0')
}

function addressAndPort(text: string): string {
  const [, bare, port] = /^(.+):(\d{1,5})$/.exec(text) ?? []
  if (bare !== undefined && isIP(bare.replace(/^\[(.*)\]$/, '$1')) && Number(port) <= 65_535) return text
  throw new Error('an address and a port, such as 127.0.0.1:9464')
}

function hostAndPort(text: string): string {
  const [, port] = /^(?:\[[0-9a-f:.]+\]|[a-z0-9][a-z0-9.-]{0,252}):(\d{1,5})$/i.exec(text) ?? []
  if (Number(port) >= 1 && Number(port) <= 65_535) return text
  throw new Error('a host and a port, such as 10.0.0.5:4750')
}

function publicUrl(text: string): string {
  const url = URL.parse(text)
  const plain = url && /^https?:$/.test(url.protocol) && !url.username && !url.password && !/[?#]/.test(text)
  if (!plain) throw new Error('an http:// or https:// address without a query')
  return url.href.replace(/\/+$/, '')
}

function databaseUrl(text: string): string {
  const url = URL.parse(text.replace('@/', '@localhost/'))
  if (url && /^postgres(ql)?:$/.test(url.protocol) && url.pathname.length > 1) return text
  throw new Error('postgres://user:password@host:5432/database')
}

function ipv4Range(text: string): string {
  if (isRange(text) && text.includes('/') && isIP(text.split('/')[0]!) === 4) return text
  throw new Error('an IPv4 range such as 203.0.113.0/28')
}

function ranges(text: string): string[] {
  const list = text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
  if (list.every(isRange)) return list
  throw new Error('address ranges such as 10.0.0.0/8, with commas between them')
}

/** Who trusts everybody lets every client name its own address. */
function proxies(text: string): string[] {
  const list = ranges(text)
  if (!list.some((range) => /\/0+$/.test(range))) return list
  throw new Error('address ranges of your own proxies, such as 10.0.0.0/8, and not every address there is')
}

/** True for a CIDR or a single address. */
export function isRange(text: string): boolean {
  try {
    parseRange(text)
    return true
  } catch {
    return false
  }
}
