/**
 * Statements and transactions on the connections of a pool.
 *
 * When the server is killed in the middle of a transaction, the transaction rejects and its connection is discarded; none
 * of its statements can run on another connection.
 */
import { createHash } from 'node:crypto'
import pg from 'pg'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { queryBound } from './bound-query.ts'
import { queryAndCommit } from './last-statement.ts'
import { checkout, isUnavailable, wrapError } from './pools.ts'
import { type Compiled, compile, createQuery, type Query, type Rows, type Statement } from './sql.ts'

/** An open transaction, on its own connection. */
export type Transaction = Query & {
  readonly transaction: true
  /** Sends this statement last, in one message with the commit. Its rows cannot be read. */
  commitWith(last: Statement<unknown>): void
}

/** More distinct statements than this are a sign that their text contains data; they are not prepared. */
const MAX_PREPARED = 1_000

/** Runs statements and transactions. It names each statement, so that a connection prepares it only once. */
export function createExecutor() {
  const names = new Map<string, string>()

  async function run(client: pg.PoolClient, { text, values }: Compiled): Promise<Rows<unknown[]>> {
    try {
      return rowsOf(await client.query(values.length === 0 ? { text } : { text, values, ...nameOf(names, text) }))
    } catch (error) {
      throw wrapError(error)
    }
  }

  /** On a connection of the pool. A server that refuses the connection is unavailable, whatever its reason. */
  async function runPooled(from: pg.Pool, compiled: Compiled): Promise<Rows<unknown[]>> {
    const client = await checkout(from)
    let isSound = true
    try {
      return await run(client, compiled)
    } catch (error) {
      isSound = !(error instanceof DatabaseUnavailableError)
      throw error
    } finally {
      client.release(!isSound)
    }
  }

  async function runBound(from: pg.Pool, environmentId: string, { text, values }: Compiled): Promise<Rows<unknown[]>> {
    const client = await checkout(from)
    let isSound = true
    try {
      return rowsOf(await queryBound(client, environmentId, { text, values, ...nameOf(names, text) }))
    } catch (error) {
      isSound = error instanceof pg.DatabaseError && !isUnavailable(error)
      throw wrapError(error)
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
      throw wrapError(error)
    }
  }

  return { run, runPooled, runBound, transaction }
}

/** Several statements have several results; returns the last one. */
function rowsOf(result: pg.QueryResult | pg.QueryResult[]): Rows<unknown[]> {
  const last = Array.isArray(result) ? result.at(-1)! : result
  return Object.assign(last.rows, { count: last.rowCount ?? 0, command: last.command })
}

/**
 * With a name, node-postgres prepares a statement once per connection. The name is a digest of the text, so that it can never
 * mean another statement, whatever prepared it on the server's side of the connection.
 */
function nameOf(names: Map<string, string>, text: string): { name?: string } {
  const known = names.get(text)
  if (known) return { name: known }
  if (names.size >= MAX_PREPARED) return {}
  const name = `cn_${createHash('sha256').update(text).digest('base64url')}`
  names.set(text, name)
  return { name }
}
