import type { Config } from './config.ts'
import type { Sql } from './db/database.ts'
import type { Notifier } from './db/notify.ts'
import type { Driver } from './drivers/driver.ts'
import type { KeyLookup } from './keys/store.ts'
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
  /** The engine's own, across tenants and with few rights. Requests and reconcilers use `sql.as(environment_id)`. */
  sql: Sql
  clock: Clock
  random: Random
  /** Names to addresses, for requests to where tenants say. */
  resolve: Resolve
  /** Connections to their checked addresses. */
  openConnection: OpenConnection
  log: Log
  secrets: Secrets
  regions: Region[]
  /** Tells engines (`announce`) and waiting requests (`changed`) of all processes, after a commit. */
  notifier: Notifier
  /** Records requests, and the spans of what they cause. */
  requests: RequestLog
  /** What Prometheus asks for. */
  metrics: Metrics
  /** Who a key belongs to. */
  keys: KeyLookup
  /** Aborts when the process is being stopped: who waits for something then answers how things are. */
  stopping: AbortSignal
}
