/**
 * A statement that is bound to its tenant.
 *
 * The setting and the statement are sent to the server in one message with one Sync at its end. PostgreSQL runs both in
 * one implicit transaction, which ends at the Sync: if the setting fails, the statement is skipped; if the statement
 * fails, the setting is rolled back. So no binding can remain on the connection, and one round trip is enough.
 *
 * node-postgres has no API for this, but an interface for custom queries (`submit` and the handlers of protocol messages,
 * as pg-cursor uses them). The types below name the parts that are used; the tests of `as` fail if a new version differs.
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
/** Methods of pg.Query that its published types omit. */
type Internals = {
  prepare(connection: Connection): void
  _getRows(connection: Connection): void
  handleDataRow(message: Message): void
  handleCommandComplete(message: Message, connection: Connection): void
}
export const Base = pg.Query as unknown as new (config: object) => Internals

/** node-postgres prepares it once per connection. */
const BIND = { name: 'bind_tenant', text: "select set_config('cloudnexus.environment_id', $1, true)" }
const canBind = new WeakSet<pg.PoolClient>()

class BoundQuery extends Base {
  private readonly environmentId: string
  /** The result of the setting comes first and is ignored. */
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

/** Runs one statement bound to an environment, in its own transaction. */
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

/** The statements that begin a bound transaction, in one message, so that they cost no more than `begin` alone. */
export function beginBound(environmentId: string): string {
  return `begin; set local cloudnexus.environment_id = ${pg.escapeLiteral(environmentId)}`
}

/** Binds an open transaction to another environment. Only the creation of a tenant uses it. */
export async function bindTo(tx: Query, environmentId: string): Promise<void> {
  await tx`select set_config('cloudnexus.environment_id', ${environmentId}, true)`
}
