/**
 * Connection pools, transactions, and the connection that listens for notifications. There are two pools: one for
 * statements without a tenant, and one for `as`, whose role can access only the environment that a statement or
 * transaction is bound to.
 */
import { atMost, systemClock } from '../lib/clock.ts'
import { beginBound } from './bound-query.ts'
import { createExecutor, type Transaction } from './execute.ts'
import { createListening, type Listener } from './listening.ts'
import { checkout, createPool, poolConfig } from './pools.ts'
import { createQuery, type Query } from './sql.ts'

export type { Transaction } from './execute.ts'
export type { Query } from './sql.ts'

export type Sql = Query & {
  /** Runs the function in a transaction: commits when it resolves, rolls back when it rejects. */
  begin<T>(body: (tx: Transaction) => T | Promise<T>): Promise<Awaited<T>>
  /**
   * Binds statements and transactions to one environment: they cannot read or write rows of another tenant. Each call
   * runs a single statement, in its own transaction. Without `as`, statements use the engine's role, which has few
   * privileges, across all tenants: see migrations/0002_tenants.sql.
   */
  as(environmentId: string): Sql
  /** Takes a connection out of the pool, for session state such as advisory locks. The caller releases it. */
  reserve(): Promise<Query & { release(): void }>
  /** Calls `notified` for each notification, and `gap` after a lost connection: notifications may have been missed. */
  listen(channel: string, notified: (payload: string) => void, gap?: () => void): Promise<Listener>
  notify(channel: string, payload: string): Promise<void>
  /** The number of connections, of idle ones, and of statements that wait for one. */
  pool(): { total: number; idle: number; waiting: number }
  /** Closes all connections; waits at most `timeout` seconds for busy ones. */
  end(options?: { timeout?: number }): Promise<void>
}

export type Connect = {
  /** Connection string; `?host=/folder` names a Unix socket. */
  url: string
  max: number
  name: string
  /** The pool for `as`, with a role in cn_app. */
  tenants?: { url: string; max: number }
  /** In place of the usual schema, for a test whose functions replace those of the server. */
  search_path?: string
}

/** Opens connections when they are first used; throws only when a statement is executed. */
export function connect({ url, max, name, tenants, search_path }: Connect): Sql {
  const pool = createPool({ ...poolConfig(url, name), max }, search_path)
  const tenantPool = tenants && createPool({ ...poolConfig(tenants.url, name), max: tenants.max }, search_path)
  const listening = createListening(poolConfig(url, name))
  const { run, runPooled, runBound, transaction } = createExecutor()
  let ending: Promise<unknown> | null = null

  const shared = {
    listen: listening.listen,
    async notify(channel: string, payload: string) {
      await whole`select pg_notify(${channel}, ${payload})`
    },
    pool: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    async end({ timeout = 5 } = {}) {
      ending ??= listening.end().then(() => Promise.all([pool.end(), tenantPool?.end()]))
      await atMost(systemClock, timeout * 1000, ending)
    },
  }
  const whole: Sql = Object.assign(
    createQuery((compiled) => runPooled(pool, compiled)),
    shared,
    {
      as: bind,
      begin: <T>(body: (tx: Transaction) => T | Promise<T>) => transaction(pool, 'begin', body),
      async reserve() {
        const client = await checkout(pool)
        const query = createQuery((compiled) => run(client, compiled))
        return Object.assign(query, { release: () => client.release() })
      },
    },
  )

  function bind(environmentId: string): Sql {
    if (!tenantPool) throw new Error('these connections cannot be bound to a tenant')
    if (!/^[a-z0-9_]+$/.test(environmentId)) throw new TypeError('not the ID of an environment')
    const bound: Sql = Object.assign(
      createQuery((compiled) => runBound(tenantPool, environmentId, compiled)),
      shared,
      {
        as(other: string) {
          if (other !== environmentId) throw new Error('already bound to another tenant')
          return bound
        },
        begin: <T>(body: (tx: Transaction) => T | Promise<T>) =>
          transaction(tenantPool, beginBound(environmentId), body),
        reserve: () => Promise.reject(new Error('a bound connection cannot be reserved; use begin')),
      },
    )
    return bound
  }
  return whole
}
