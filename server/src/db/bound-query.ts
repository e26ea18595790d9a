/**
 * A statement that carries its tenant with it.
 *
 * The setting and the statement go to the server as one message with one Sync at its end. PostgreSQL then runs both in
 * one transaction that begins with the first and ends at the Sync: a setting that fails skips the statement, a statement
 * that fails drops the setting, and a connection that answers again has neither. There is nothing to end, so nothing can
 * be left half open; and it costs one round trip, as the statement alone does.
 *
 * node-postgres has no word for this, but an interface for queries of one's own (`submit` and the handlers of the
 * protocol's messages, as pg-cursor uses them). What is used of it is spelled out in the types below; the tests of
 * `as` notice if a new version differs.
 */
import pg from 'pg'
import type { Query } from './sql.ts'

export type Connection = {
  parse(message: { name: string; text: string; types: number[] }): void
  bind(message: { statement: string; values: unknown[] }): void
  execute(message: object): void
  sync(): void
}
export type Message = object
/** The methods of pg.Query that its published types leave out. */
type Internals = {
  prepare(connection: Connection): void
  _getRows(connection: Connection): void
  handleDataRow(message: Message): void
  handleCommandComplete(message: Message, connection: Connection): void
}
export const Base = pg.Query as unknown as new (config: object) => Internals

/** Prepared once per connection, by node-postgres's own means. */
const BIND = { name: 'bind_tenant', text: "select set_config('cloudnexus.environment_id', $1, true)" }
const canBind = new WeakSet<pg.PoolClient>()

class BoundQuery extends Base {
  private readonly environmentId: string
  /** The setting's own answer comes first and is passed over. */
  private isBinding = true
  constructor(config: object, environmentId: string) {
    super(config)
    this.environmentId = environmentId
  }
  override prepare(connection: Connection): void {
    connection.bind({ statement: BIND.name, values: [this.environmentId] })
    connection.execute({})
    super.prepare(connection)
  }
  override handleDataRow(message: Message): void {
    if (!this.isBinding) super.handleDataRow(message)
  }
  override handleCommandComplete(message: Message, connection: Connection): void {
    if (this.isBinding) this.isBinding = false
    else super.handleCommandComplete(message, connection)
  }
}

/** Runs one statement bound to an environment, in a transaction of its own. */
export async function queryBound(
  client: pg.PoolClient,
  environmentId: string,
  config: { text: string; values: unknown[]; name?: string },
): Promise<pg.QueryResult> {
  if (!canBind.has(client)) {
    await client.query({ ...BIND, values: [''] })
    canBind.add(client)
  }
  return new Promise((resolve, reject) => {
    const callback = (error: Error | null, result: pg.QueryResult) => (error ? reject(error) : resolve(result))
    const query = new BoundQuery({ ...config, queryMode: 'extended', callback }, environmentId)
    client.query(query as unknown as pg.Submittable)
  })
}

/** What begins a transaction that is bound: one message, so it costs no more than `begin` alone. */
export function beginBound(environmentId: string): string {
  return `begin; set local cloudnexus.environment_id = ${pg.escapeLiteral(environmentId)}`
}

/** Binds an open transaction to another environment: only for who makes a new tenant, whose rows these are. */
export async function bindTo(tx: Query, environmentId: string): Promise<void> {
  await tx`select set_config('cloudnexus.environment_id', ${environmentId}, true)`
}
