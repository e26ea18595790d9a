import type { Config } from './config.ts'
import type { Sql } from './db/database.ts'
import type { Notifier } from './db/notify.ts'
import type { Driver } from './drivers/driver.ts'
import type { KeyLookup } from './keys/lookup.ts'
import type { Clock } from './lib/clock.ts'
import type { Log } from './lib/log.ts'
import type { Metrics } from './lib/metrics.ts'
import type { Resolve } from './lib/outbound.ts'
import type { OpenConnection } from './lib/outbound-connection.ts'
import type { Random } from './lib/random.ts'
import type { Secrets } from './lib/secrets.ts'
import type { RequestLog } from './requests/recorder.ts'

/** A region and the drivers that serve its two environments. */
export type Region = { id: string; name: string; drivers: { live: Driver; test: Driver } }

/** What the composition root hands to everything else: a plain object, no container. */
export type Deps = {
  config: Config
  /** The engine's connections, for all tenants and with few rights. Requests and reconcilers use `sql.as(environment_id)`. */
  sql: Sql
  clock: Clock
  random: Random
  /** Resolves host names to IP addresses, for requests to URLs of tenants. */
  resolve: Resolve
  /** Opens connections to the checked IP addresses. */
  openConnection: OpenConnection
  log: Log
  /** Free bytes on the disk of the host, and those that images in progress have written. */
  imageSpaceBytes: () => number
  secrets: Secrets
  regions: Region[]
  /** Notifies engines (`announce`) and waiting requests (`changed`) in all processes, after a commit. */
  notifier: Notifier
  /** Records requests, and the spans of their effects. */
  requests: RequestLog
  /** The metrics that Prometheus scrapes. */
  metrics: Metrics
  /** Finds the principal of a key. */
  keys: KeyLookup
  /** Aborts at shutdown: long polls then return the current state. */
  stopping: AbortSignal
}
