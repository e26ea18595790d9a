/**
 * All settings. The types of `Settings` and `Config`, the validation of config.json, the command line, --help and the
 * table in docs/configuration.md derive from this list: a new setting is one entry here.
 */
import { existsSync } from 'node:fs'
import { Type } from 'typebox'
import { DEFAULT_QUOTAS, QUOTA_NAMES, showQuotas } from '../lib/quota.ts'
import { type Group, listSettings, setting } from './setting.ts'
import { Mirrors, Plan, Quota, RateLimit, Region } from './shapes.ts'
import {
  addressAndPort,
  bytes,
  databaseUrl,
  folder,
  host,
  hostAndPort,
  httpUrl,
  integer,
  ipv4Range,
  isLoopback,
  json,
  oneOf,
  onOff,
  proxyRanges,
  ranges,
} from './types.ts'

const MIB = 2 ** 20
const GIB = 2 ** 30

/** UEC Image Automatic Signing Key <cdimage@ubuntu.com>; on Ubuntu hosts it is in the package ubuntu-keyring. */
const UBUNTU_FINGERPRINT = 'D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81'
const UBUNTU_KEYRING = '/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg'
const UBUNTU_KEY_URL = `https://keyserver.ubuntu.com/pks/lookup?op=get&options=mr&search=0x${UBUNTU_FINGERPRINT}`

const plans = json(Type.Array(Plan, { minItems: 1 }), (list) => list.map(({ id }) => id).join(', '))
const quota = json(Quota, () => showQuotas(DEFAULT_QUOTAS))
const rateLimit = json(RateLimit, ({ rate_per_second, burst }) => {
  const rate = rate_per_second < 1 ? `${rate_per_second * 60}/min` : `${rate_per_second}/s`
  return `${rate}, burst ${burst.toLocaleString('en')}`
})

const loopbackOnly = (address: string) => (isLoopback(address) ? ['127.0.0.0/8', '::1'] : [])
const LOOPBACK_ONLY = '127.0.0.0/8 and ::1 if `host` is a loopback address, otherwise none'

export const SETTINGS = {
  port: setting({
    type: integer(0, 65_535),
    flag: '--port',
    env: 'CLOUDNEXUS_PORT',
    default: 8080,
    description: 'Port of the API. With 0, the system chooses a free port',
  }),
  host: setting({
    type: host,
    flag: '--host',
    env: 'CLOUDNEXUS_HOST',
    default: '127.0.0.1',
    description: 'IP address to listen on; 0.0.0.0 or :: for all addresses',
  }),
  data_dir: setting({
    type: folder,
    flag: '--data-dir',
    env: 'CLOUDNEXUS_DATA_DIR',
    in_file: false,
    default: './data',
    description: 'Folder for all data of this installation. Must be new or empty at the first start',
  }),
  public_url: setting({
    type: httpUrl,
    flag: '--public-url',
    env: 'CLOUDNEXUS_PUBLIC_URL',
    default: null,
    default_text: 'derived from `host` and `port`',
    description: 'Base URL of links in responses',
  }),
  log_level: setting({
    type: oneOf<string>('LEVEL', 'debug', 'info', 'warn', 'error'),
    flag: '--log-level',
    env: 'CLOUDNEXUS_LOG_LEVEL',
    default: 'info',
    description: 'debug, info, warn or error',
  }),
  postgres: setting({
    type: oneOf('NAME', 'embedded', 'system'),
    flag: '--postgres',
    env: 'CLOUDNEXUS_POSTGRES',
    default: 'embedded',
    description:
      'Whose PostgreSQL CloudNexus runs: embedded (from the npm package) or system (installed on the host, version 15 or newer)',
  }),
  database_url: setting({
    type: databaseUrl,
    env: 'DATABASE_URL',
    default: null,
    default_text: 'a PostgreSQL that CloudNexus runs',
    description: 'External PostgreSQL, version 15 or newer. Its role owns the tables and can create roles (CREATEROLE)',
  }),
  database_app_url: setting({
    type: databaseUrl,
    env: 'DATABASE_APP_URL',
    default: null,
    default_text: 'a role that is created at start',
    description: 'The same database with a role in cn_app. Required if the role of DATABASE_URL cannot create roles',
  }),
  database_engine_url: setting({
    type: databaseUrl,
    env: 'DATABASE_ENGINE_URL',
    default: null,
    default_text: 'a role that is created at start',
    description: 'The same database with a role in cn_engine. Required together with DATABASE_APP_URL',
  }),
  accelerator: setting({
    type: oneOf('NAME', 'auto', 'kvm', 'tcg'),
    env: 'CLOUDNEXUS_ACCEL',
    default: 'auto',
    description: 'kvm, tcg or auto. With auto, KVM is used if a test machine boots with it',
  }),
  capacity: {
    vcpus_per_core: setting({
      type: integer(1, 1_000),
      env: 'CLOUDNEXUS_VCPUS_PER_CORE',
      default: 8,
      description: 'Virtual CPUs for each core of the host',
    }),
    memory_bytes: setting({
      type: bytes(0),
      env: 'CLOUDNEXUS_MEMORY_BYTES',
      default: null,
      default_text: 'memory of the host minus one eighth, at least 512 MiB',
      description: 'Memory for instances',
    }),
    disk_bytes: setting({
      type: bytes(0),
      env: 'CLOUDNEXUS_DISK_BYTES',
      default: null,
      default_text: 'four times the space that is free or used by instances, because disks are sparse',
      description: 'Disk space for instances',
    }),
  },
  quotas: {
    live: setting({
      type: quota,
      default: {},
      description: `Quotas of a project in its live environment: ${QUOTA_NAMES.join(', ')}. They replace the defaults, which do not apply to the first project. A quota that is absent keeps its default; null is no limit except the capacity of the host`,
    }),
    test: setting({
      type: quota,
      default: {},
      description: 'The same for its test environment',
    }),
  },
  public_addresses: setting({
    type: ipv4Range,
    env: 'CLOUDNEXUS_PUBLIC_ADDRESSES',
    default: null,
    default_text: "the installation's own loopback block",
    description: 'IPv4 range for the public IP addresses of live instances',
  }),
  trusted_proxies: setting({
    type: proxyRanges,
    env: 'CLOUDNEXUS_TRUSTED_PROXIES',
    default: [],
    description:
      "IP addresses of your proxies. Their X-Forwarded-For sets the client's IP address in logs and for the allowed addresses of API keys",
  }),
  imports_per_host: setting({
    type: integer(1, 1_000),
    env: 'CLOUDNEXUS_IMPORTS_PER_HOST',
    default: 4,
    description: 'How many images are imported at once. The others wait',
  }),
  imports_per_project: setting({
    type: integer(1, 1_000),
    env: 'CLOUDNEXUS_IMPORTS_PER_PROJECT',
    default: 2,
    description: 'How many images of one project are imported at once',
  }),
  image_allow: setting({
    type: ranges,
    env: 'CLOUDNEXUS_IMAGE_ALLOW',
    default: loopbackOnly,
    default_text: LOOPBACK_ONLY,
    description: 'IP addresses outside the public internet from which images can be downloaded',
  }),
  guest_allow: setting({
    type: ranges,
    env: 'CLOUDNEXUS_GUEST_ALLOW',
    default: [],
    description:
      'IP addresses outside the public internet that guests can reach, such as a package mirror. Guests never reach the API at an IP address of this host',
  }),
  allow_unfiltered_guests: setting({
    type: onOff,
    env: 'CLOUDNEXUS_ALLOW_UNFILTERED_GUESTS',
    default: false,
    description:
      'Whether all projects can run live instances where what guests send cannot be filtered; otherwise only the first project can. In config.json: true or false',
  }),
  allow_tenant_loopback: setting({
    type: onOff,
    env: 'CLOUDNEXUS_ALLOW_TENANT_LOOPBACK',
    default: false,
    description:
      'Whether loopback addresses in webhook_allow and image_allow apply to all projects; otherwise to the first project only. In config.json: true or false',
  }),
  webhook_allow: setting({
    type: ranges,
    env: 'CLOUDNEXUS_WEBHOOK_ALLOW',
    allow_empty: true,
    default: loopbackOnly,
    default_text: LOOPBACK_ONLY,
    description:
      'IP addresses outside the public internet to which webhooks can be sent, also by http. An empty value allows none',
  }),
  webhook_proxy: setting({
    type: hostAndPort,
    env: 'CLOUDNEXUS_WEBHOOK_PROXY',
    default: null,
    description: 'HTTP proxy (CONNECT) through which webhooks are sent. IP addresses are checked before',
  }),
  webhook_log_days: setting({
    type: integer(4, 3_650, 'DAYS'),
    env: 'CLOUDNEXUS_WEBHOOK_LOG_DAYS',
    default: 30,
    description: 'Retention of webhook deliveries and their attempts',
  }),
  image_max_bytes: setting({
    type: bytes(1),
    env: 'CLOUDNEXUS_IMAGE_MAX_BYTES',
    default: 20 * GIB,
    description: 'Maximum size of an image, both as a file and as a disk',
  }),
  image_stall_timeout_seconds: setting({
    type: integer(1, 3_600, 'SECONDS'),
    env: 'CLOUDNEXUS_IMAGE_STALL_TIMEOUT_SECONDS',
    default: 60,
    description: 'An image download fails after this time without progress',
  }),
  request_log_days: setting({
    type: integer(1, 3_650, 'DAYS'),
    env: 'CLOUDNEXUS_REQUEST_LOG_DAYS',
    default: 14,
    description: 'Retention of requests and their traces, in days before today',
  }),
  events_days: setting({
    type: integer(1, 3_650, 'DAYS'),
    env: 'CLOUDNEXUS_EVENTS_DAYS',
    default: 30,
    description: 'Retention of events, measured by the clock of their environment',
  }),
  key_rotation_days: setting({
    type: integer(0, 3_650, 'DAYS'),
    env: 'CLOUDNEXUS_KEY_ROTATION_DAYS',
    default: 90,
    description: 'Age above which API keys have `rotation_recommended`. 0: never',
  }),
  recovery: {
    concurrency: setting({
      type: integer(1, 64),
      env: 'CLOUDNEXUS_RECOVERY_CONCURRENCY',
      default: 2,
      description: 'Instances that are started at the same time after a reboot of the host',
    }),
  },
  metrics_listen: setting({
    type: addressAndPort,
    env: 'CLOUDNEXUS_METRICS_LISTEN',
    default: null,
    description:
      'Separate listener for Prometheus, which requires no key. /metrics of the API requires a key with the scope admin',
  }),
  region: setting({
    type: json(Region, ({ id }) => id),
    default: { id: 'us-east-1', name: 'US East 1' },
    description: 'The region that this host serves',
  }),
  plans: setting({
    type: plans,
    default: [
      { id: 'micro-1x', vcpus: 1, memory_bytes: 128 * MIB, disk_bytes: GIB },
      { id: 'standard-1x', vcpus: 1, memory_bytes: GIB, disk_bytes: 10 * GIB },
      { id: 'standard-2x', vcpus: 2, memory_bytes: 2 * GIB, disk_bytes: 20 * GIB },
      { id: 'standard-4x', vcpus: 4, memory_bytes: 8 * GIB, disk_bytes: 40 * GIB },
      { id: 'standard-8x', vcpus: 8, memory_bytes: 16 * GIB, disk_bytes: 80 * GIB },
    ],
    description: 'Sizes of instances. Existing instances keep their size when a plan changes',
  }),
  mirrors: setting({
    type: json(Mirrors, (mirrors) =>
      Object.values(mirrors)
        .map(({ url }) => url)
        .join(', '),
    ),
    default: {
      ubuntu: {
        url: 'https://cloud-images.ubuntu.com',
        keyring: existsSync(UBUNTU_KEYRING) ? UBUNTU_KEYRING : UBUNTU_KEY_URL,
        fingerprints: [UBUNTU_FINGERPRINT],
      },
    },
    description: 'Source of catalogue images, and the keys that may sign their lists',
  }),
  rate_limits: {
    enabled: setting({
      type: onOff,
      env: 'CLOUDNEXUS_RATE_LIMITS',
      default: true,
      description: 'off disables rate limits, for benchmarks. In config.json: true or false',
    }),
    keys_per_project: setting({
      type: integer(1, 1_000),
      default: 5,
      description:
        'Limits of all keys of a project together, as a multiple of the limits of one key, in each environment',
    }),
    reads: setting({
      type: rateLimit,
      default: { rate_per_second: 100, burst: 1_000 },
      description: 'GET requests of a key',
    }),
    writes: setting({
      type: rateLimit,
      default: { rate_per_second: 20, burst: 100 },
      description: 'Other requests of a key',
    }),
    creates: setting({
      type: rateLimit,
      default: { rate_per_second: 5, burst: 50 },
      description: 'Instances that a key creates. Each also counts as a write',
    }),
    test_writes: setting({
      type: rateLimit,
      default: { rate_per_second: 200, burst: 2_000 },
      description: '`writes` in test environments',
    }),
    test_creates: setting({
      type: rateLimit,
      default: { rate_per_second: 200, burst: 2_000 },
      description: '`creates` in test environments',
    }),
    unauthenticated: setting({
      type: rateLimit,
      default: { rate_per_second: 20, burst: 200 },
      description: 'Requests from one IP address to routes that require no key',
    }),
    failed_authentication: setting({
      type: rateLimit,
      default: { rate_per_second: 20 / 60, burst: 20 },
      description: 'Requests from one IP address without a valid key to routes that require one',
    }),
  },
} satisfies Group

/** The same, flat and in the same order. */
export const SETTING_LIST = listSettings(SETTINGS)
