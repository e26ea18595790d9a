/** Pools of node-postgres, and which of its errors mean that the database is unavailable. */
import './environment.ts'
import pg from 'pg'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { pinSession } from './session.ts'

const BIGINT = 20
export const CONNECT_TIMEOUT_MS = 10_000

const types = {
  // Our sizes and counters stay below 2^53.
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    oid === BIGINT ? Number : pg.types.getTypeParser(oid, format as 'text'),
}

export function poolConfig(url: string, name: string): pg.PoolConfig {
  return { connectionString: url, application_name: name, types } as pg.PoolConfig
}

export function createPool(config: pg.PoolConfig, searchPath?: string): pg.Pool {
  const pool = new pg.Pool({
    ...config,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    idleTimeoutMillis: 60_000,
    onConnect: (client) => pinSession(client, searchPath),
  })
  pool.on('error', () => {}) // an idle connection was lost; the pool has removed it
  return pool
}

/** Takes a connection out of the pool; throws a DatabaseUnavailableError if none can be opened. */
export async function checkout(pool: pg.Pool): Promise<pg.PoolClient> {
  const client = await pool.connect().catch((error: unknown) => {
    throw new DatabaseUnavailableError(error)
  })
  if (client.listenerCount('error') === 0) client.on('error', () => {}) // its queries reject on their own
  return client
}

/** True unless the server executed the statement: connection lost or refused, or the server is starting, stopping or full. */
export function isUnavailable(error: unknown): boolean {
  if (!(error instanceof pg.DatabaseError)) return true
  return /^(08|57P0|53300)/.test(error.code ?? '')
}

/** Wraps an error which means that the database is unavailable. */
export function wrapError(error: unknown): unknown {
  return isUnavailable(error) ? new DatabaseUnavailableError(error) : error
}
