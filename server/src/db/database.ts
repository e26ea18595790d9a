/**
 * The pool of connections, transactions, and the one connection that listens.
 *
 * node-postgres carries the protocol, because it survives what must be survived here: a server that is killed in the
 * middle of a transaction. The transaction then rejects, its connection is thrown away, and no statement of it can
 * ever reach another connection.
 */
import pg from 'pg'
import { systemClock } from '../lib/clock.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { type Compiled, createQuery, type Query, type Rows } from './sql.ts'

export type { Query } from './sql.ts'
/** A transaction that is open: the same tag, on its own connection. */
export type Transaction = Query & { readonly transaction: true }

export type Listener = { unlisten(): Promise<void> }

export type Sql = Query & {
  /** Runs the function in a transaction: commits when it resolves, rolls back when it rejects. */
  begin<T>(body: (tx: Transaction) => T | Promise<T>): Promise<Awaited<T>>
  /** The same, bound to one environment: nothing of another tenant can be read or written through it. */
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

/** @param url connection string; `?host=/folder` names a unix socket */
export function connect(options: { url: string; max: number; name: string }): Sql {
  const config = { connectionString: options.url, application_name: options.name, types } as pg.PoolConfig
  const pool = new pg.Pool({
    ...config,
    max: options.max,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    idleTimeoutMillis: 60_000,
  })
  pool.on('error', () => {}) // an idle connection was lost; the pool has dropped it already
  const names = new Map<string, string>()

  async function run(target: pg.Pool | pg.PoolClient, { text, values }: Compiled): Promise<Rows<unknown[]>> {
    try {
      const result = await target.query(values.length === 0 ? { text } : { text, values, ...nameOf(names, text) })
      // Several statements answer several results; the last one is meant.
      const last = Array.isArray(result) ? (result as pg.QueryResult[]).at(-1)! : result
      return Object.assign(last.rows, { count: last.rowCount ?? 0 })
    } catch (error) {
      throw isUnavailable(error) ? new DatabaseUnavailableError(error) : error
    }
  }

  async function checkout(): Promise<pg.PoolClient> {
    const client = await pool.connect().catch((error: unknown) => {
      throw new DatabaseUnavailableError(error)
    })
    if (client.listenerCount('error') === 0) client.on('error', () => {}) // its queries reject by themselves
    return client
  }

  const listening = createListening(config)
  const sql = createQuery((compiled) => run(pool, compiled))
  const whole: Sql = Object.assign(sql, {
    as: () => whole,
    async begin<T>(body: (tx: Transaction) => T | Promise<T>): Promise<Awaited<T>> {
      const client = await checkout()
      const tx = Object.assign(
        createQuery((compiled) => run(client, compiled)),
        { transaction: true as const },
      )
      try {
        await tx.unsafe('begin')
        const result = await (body(tx) as T)
        await tx.unsafe('commit')
        client.release()
        return result
      } catch (error) {
        const rolledBack = await tx.unsafe('rollback').then(
          () => true,
          () => false,
        )
        client.release(!rolledBack)
        throw error
      }
    },
    async reserve() {
      const client = await checkout()
      const query = createQuery((compiled) => run(client, compiled))
      return Object.assign(query, { release: () => client.release() })
    },
    listen: listening.listen,
    async notify(channel: string, payload: string) {
      await sql`select pg_notify(${channel}, ${payload})`
    },
    pool: () => ({ total: pool.totalCount, idle: pool.idleCount, waiting: pool.waitingCount }),
    async end({ timeout = 5 } = {}) {
      await listening.end()
      await Promise.race([pool.end(), systemClock.sleep(timeout * 1000)])
    },
  })
  return whole
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
