/**
 * The pools of connections, transactions, and the one connection that listens. There are two pools: one for what has no
 * tenant, and one for `as`, whose role sees nothing but the environment that each statement or transaction is bound to.
 *
 * node-postgres carries the protocol, because it survives what must be survived here: a server that is killed in the
 * middle of a transaction. The transaction then rejects, its connection is thrown away, and no statement of it can
 * ever reach another connection.
 */
import pg from 'pg'
import { atMost, systemClock } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { beginBound, queryBound } from './bound-query.ts'
import { queryAndCommit } from './last-statement.ts'
import { type Compiled, compile, createQuery, type Query, type Rows, type Statement } from './sql.ts'

export type { Query } from './sql.ts'
/** A transaction that is open: the same tag, on its own connection. */
export type Transaction = Query & {
  readonly transaction: true
  /** Runs this statement after everything else, in one message with the commit; only for who needs no answer from it. */
  commitWith(last: Statement<unknown>): void
}

export type Listener = { unlisten(): Promise<void> }

export type Sql = Query & {
  /** Runs the function in a transaction: commits when it resolves, rolls back when it rejects. */
  begin<T>(body: (tx: Transaction) => T | Promise<T>): Promise<Awaited<T>>
  /**
   * The same, bound to one environment: nothing of another tenant can be read or written through it. Each statement is
   * a transaction of its own and must be a single one. Unbound, these are the engine's connections, whose rights span
   * tenants and are few: see migrations/0002_tenants.sql.
   */
  as(environmentId: string): Sql
  /** A connection of one's own, for what lives as long as a session; to be released. */
  reserve(): Promise<Query & { release(): void }>
  /** Calls back at each notification. After a lost connection `gap` is called: something may have been missed. */
  listen(channel: string, notified: (payload: string) => void, gap?: () => void): Promise<Listener>
  notify(channel: string, payload: string): Promise<void>
  /** How many connections there are, how many of them rest, and how many statements wait for one. */
  pool(): { total: number; idle: number; waiting: number }
  /** Closes all connections; those that are busy after `timeout` seconds are left to the process's end. */
  end(options?: { timeout?: number }): Promise<void>
}

const BIGINT = 20
const RECONNECT_MS = 250
const CONNECT_TIMEOUT_MS = 10_000
/** Texts of statements are few: ours, with fragments. Beyond this many something builds them from data. */
const MAX_PREPARED = 1_000

const types = {
  // Sizes and counters: all of ours stay below 2^53.
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    oid === BIGINT ? Number : pg.types.getTypeParser(oid, format as 'text'),
}

export type Connect = {
  /** Connection string; `?host=/folder` names a unix socket. */
  url: string
  max: number
  name: string
  /** Connections for `as`, of a role in cn_app; without them there is no `as`. */
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

  /** @param beginning what begins it, with the setting that lives as long as it does */
  async function transaction<T>(
    from: pg.Pool,
    beginning: string,
    body: (tx: Transaction) => T | Promise<T>,
  ): Promise<Awaited<T>> {
    const client = await checkout(from)
    let isOpen = true
    // A statement that the body forgot to await must not reach whoever has the connection next.
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

  /** A server that was asked to commit a failed transaction rolls it back and calls that a success. */
  async function commit(client: pg.PoolClient, last: Compiled | null): Promise<void> {
    const outcome = last ? await runLast(client, last) : (await run(client, { text: 'commit', values: [] })).command
    if (outcome === 'ROLLBACK') throw new Error('a statement of the transaction had failed: nothing was written')
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
    if (!tenantPool)
      throw new Error("these connections are the owner's or the engine's: they cannot be bound to a tenant")
    if (!/^[a-z0-9_]+$/.test(environmentId)) throw new TypeError('not the id of an environment')
    const bound: Sql = Object.assign(
      createQuery((compiled) => runBound(environmentId, compiled)),
      shared,
      {
        as(other: string) {
          if (other !== environmentId) throw new Error('what is bound to one tenant cannot be bound to another')
          return bound
        },
        begin: <T>(body: (tx: Transaction) => T | Promise<T>) =>
          transaction(tenantPool, beginBound(environmentId), body),
        reserve: () => Promise.reject(new Error('a binding ends with its transaction; use begin')),
      },
    )
    return bound
  }
  return whole
}

function createPool(config: pg.PoolConfig): pg.Pool {
  const pool = new pg.Pool({ ...config, connectionTimeoutMillis: CONNECT_TIMEOUT_MS, idleTimeoutMillis: 60_000 })
  pool.on('error', () => {}) // an idle connection was lost; the pool has dropped it already
  return pool
}

async function checkout(pool: pg.Pool): Promise<pg.PoolClient> {
  const client = await pool.connect().catch((error: unknown) => {
    throw new DatabaseUnavailableError(error)
  })
  if (client.listenerCount('error') === 0) client.on('error', () => {}) // its queries reject by themselves
  return client
}

/** Several statements answer several results; the last one is meant. */
function rowsOf(result: pg.QueryResult | pg.QueryResult[]): Rows<unknown[]> {
  const last = Array.isArray(result) ? result.at(-1)! : result
  return Object.assign(last.rows, { count: last.rowCount ?? 0, command: last.command })
}

/** Prepared once per connection and text; a name is what makes node-postgres do so. */
function nameOf(names: Map<string, string>, text: string): { name?: string } {
  const known = names.get(text)
  if (known) return { name: known }
  if (names.size >= MAX_PREPARED) return {}
  const name = `s${names.size}`
  names.set(text, name)
  return { name }
}

/** Connection lost or refused, or a server that is starting, stopping or full: everything but an answer to a statement. */
function isUnavailable(error: unknown): boolean {
  if (!(error instanceof pg.DatabaseError)) return true
  return /^(08|57P0|53300)/.test(error.code ?? '')
}

type Subscription = { channel: string; notified: (payload: string) => void; gap: (() => void) | undefined }

/** One connection for all channels, made anew whenever it is lost. */
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
    // Only now: a connection that was refused ends as well, and its opener tries again by itself.
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
