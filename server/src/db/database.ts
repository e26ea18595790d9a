/**
 * Connection pools, transactions, and the connection that listens for notifications. There are two pools: one for
 * statements without a tenant, and one for `as`, whose role can access only the environment that a statement or
 * transaction is bound to.
 *
 * When the server is killed in the middle of a transaction, the transaction rejects and its connection is discarded; none
 * of its statements can run on another connection.
 */
import pg from 'pg'
import { atMost, systemClock } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { beginBound, queryBound } from './bound-query.ts'
import { queryAndCommit } from './last-statement.ts'
import { type Compiled, compile, createQuery, type Query, type Rows, type Statement } from './sql.ts'

export type { Query } from './sql.ts'
/** An open transaction, on its own connection. */
export type Transaction = Query & {
  readonly transaction: true
  /** Sends this statement last, in one message with the commit. Its rows cannot be read. */
  commitWith(last: Statement<unknown>): void
}

export type Listener = { unlisten(): Promise<void> }

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

const BIGINT = 20
const RECONNECT_MS = 250
const CONNECT_TIMEOUT_MS = 10_000
/** More distinct statements than this are a sign that their text contains data; they are not prepared. */
const MAX_PREPARED = 1_000

const types = {
  // Our sizes and counters stay below 2^53.
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    oid === BIGINT ? Number : pg.types.getTypeParser(oid, format as 'text'),
}

export type Connect = {
  /** Connection string; `?host=/folder` names a Unix socket. */
  url: string
  max: number
  name: string
  /** The pool for `as`, with a role in cn_app. */
  tenants?: { url: string; max: number }
}

export function connect(options: Connect): Sql {
  const configOf = (url: string) => ({ connectionString: url, application_name: options.name, types }) as pg.PoolConfig
  const pool = createPool({ ...configOf(options.url), max: options.max })
  const { tenants } = options
  const tenantPool = tenants && createPool({ ...configOf(tenants.url), max: tenants.max })
  const listening = createListening(configOf(options.url))
  const names = new Map<string, string>()
  let ending: Promise<unknown> | null = null

  async function run(target: pg.Pool | pg.PoolClient, { text, values }: Compiled): Promise<Rows<unknown[]>> {
    try {
      return rowsOf(await target.query(values.length === 0 ? { text } : { text, values, ...nameOf(names, text) }))
    } catch (error) {
      throw isUnavailable(error) ? new DatabaseUnavailableError(error) : error
    }
  }

  async function runBound(environmentId: string, { text, values }: Compiled): Promise<Rows<unknown[]>> {
    const client = await checkout(tenantPool!)
    let isSound = true
    try {
      return rowsOf(await queryBound(client, environmentId, { text, values, ...nameOf(names, text) }))
    } catch (error) {
      isSound = error instanceof pg.DatabaseError && !isUnavailable(error)
      throw isUnavailable(error) ? new DatabaseUnavailableError(error) : error
    } finally {
      client.release(!isSound)
    }
  }

  /** @param beginning the statement that begins the transaction and binds it */
  async function transaction<T>(
    from: pg.Pool,
    beginning: string,
    body: (tx: Transaction) => T | Promise<T>,
  ): Promise<Awaited<T>> {
    const client = await checkout(from)
    let isOpen = true
    // A statement that the body does not await must not run in the next transaction of this connection.
    const execute = (compiled: Compiled) =>
      isOpen ? run(client, compiled) : Promise.reject(new Error('the transaction has ended'))
    try {
      await run(client, { text: beginning, values: [] })
      let last: Compiled | null = null
      const commitWith = (statement: Statement<unknown>) => {
        last = compile(statement)
      }
      const tx = Object.assign(createQuery(execute), { transaction: true as const, commitWith })
      const result = await (body(tx) as T)
      isOpen = false
      await commit(client, last)
      client.release()
      return result
    } catch (error) {
      isOpen = false
      const rolledBack = await run(client, { text: 'rollback', values: [] }).then(
        () => true,
        () => false,
      )
      client.release(!rolledBack)
      throw error
    }
  }

  /** When a transaction has failed, the server responds to COMMIT with a successful ROLLBACK. */
  async function commit(client: pg.PoolClient, last: Compiled | null): Promise<void> {
    const outcome = last ? await runLast(client, last) : (await run(client, { text: 'commit', values: [] })).command
    if (outcome === 'ROLLBACK') throw new Error('a statement of the transaction failed: nothing was written')
  }

  async function runLast(client: pg.PoolClient, { text, values }: Compiled): Promise<string> {
    try {
      return await queryAndCommit(client, { text, values, ...nameOf(names, text) })
    } catch (error) {
      throw isUnavailable(error) ? new DatabaseUnavailableError(error) : error
    }
  }

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
    createQuery((compiled) => run(pool, compiled)),
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
      createQuery((compiled) => runBound(environmentId, compiled)),
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

function createPool(config: pg.PoolConfig): pg.Pool {
  const pool = new pg.Pool({ ...config, connectionTimeoutMillis: CONNECT_TIMEOUT_MS, idleTimeoutMillis: 60_000 })
  pool.on('error', () => {}) // an idle connection was lost; the pool has removed it
  return pool
}

async function checkout(pool: pg.Pool): Promise<pg.PoolClient> {
  const client = await pool.connect().catch((error: unknown) => {
    throw new DatabaseUnavailableError(error)
  })
  if (client.listenerCount('error') === 0) client.on('error', () => {}) // its queries reject on their own
  return client
}

/** Several statements have several results; returns the last one. */
function rowsOf(result: pg.QueryResult | pg.QueryResult[]): Rows<unknown[]> {
  const last = Array.isArray(result) ? result.at(-1)! : result
  return Object.assign(last.rows, { count: last.rowCount ?? 0, command: last.command })
}

/** With a name, node-postgres prepares a statement once per connection. */
function nameOf(names: Map<string, string>, text: string): { name?: string } {
  const known = names.get(text)
  if (known) return { name: known }
  if (names.size >= MAX_PREPARED) return {}
  const name = `s${names.size}`
  names.set(text, name)
  return { name }
}

/** True unless the server executed the statement: connection lost or refused, or the server is starting, stopping or full. */
function isUnavailable(error: unknown): boolean {
  if (!(error instanceof pg.DatabaseError)) return true
  return /^(08|57P0|53300)/.test(error.code ?? '')
}

type Subscription = { channel: string; notified: (payload: string) => void; gap: (() => void) | undefined }

/** One connection for all channels, opened again when it is lost. */
function createListening(config: pg.ClientConfig) {
  const subscriptions = new Set<Subscription>()
  let client: Promise<pg.Client> | null = null
  let ended = false

  async function open(): Promise<pg.Client> {
    const fresh = new pg.Client({ ...config, connectionTimeoutMillis: CONNECT_TIMEOUT_MS, keepAlive: true })
    fresh.on('error', () => {})
    fresh.on('notification', ({ channel, payload }) => {
      for (const one of [...subscriptions]) if (one.channel === channel) one.notified(payload ?? '')
    })
    await fresh.connect()
    // Registered only now: a refused connection also ends, and its caller retries.
    fresh.once('end', () => void reopen())
    for (const channel of new Set([...subscriptions].map((one) => one.channel))) await subscribe(fresh, channel)
    return fresh
  }

  async function reopen(): Promise<void> {
    while (!ended && subscriptions.size > 0) {
      await systemClock.sleep(RECONNECT_MS)
      if (ended) return
      client = open()
      const isOpen = await client.then(
        () => true,
        () => false,
      )
      if (!isOpen) continue
      for (const one of [...subscriptions]) one.gap?.()
      return
    }
    client = null
  }

  const subscribe = (to: pg.Client, channel: string) => to.query(`listen ${pg.escapeIdentifier(channel)}`)

  return {
    async listen(channel: string, notified: (payload: string) => void, gap?: () => void): Promise<Listener> {
      const one = { channel, notified, gap }
      subscriptions.add(one)
      client ??= open()
      await subscribe(await client, channel)
      return { unlisten: async () => void subscriptions.delete(one) }
    },
    async end() {
      ended = true
      subscriptions.clear()
      await client?.then((open) => open.end()).catch(() => {})
    },
  }
}
