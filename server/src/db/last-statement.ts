/**
 * A statement and the commit after it, in one message.
 *
 * Some statements take a lock that other requests of the tenant wait for until the commit. If the commit were a separate
 * message, they would also wait for our event loop, which serves other requests in between. The server runs both in
 * order and skips the commit if the statement fails, because there is one Sync, at the end.
 */
import type pg from 'pg'
import { Base, type Connection, type Message } from './bound-query.ts'

class LastQuery extends Base {
  private isCommitting = false
  /** The command tag of the commit: COMMIT, or ROLLBACK if an earlier statement failed. */
  outcome = ''
  override _getRows(connection: Connection): void {
    connection.execute({ portal: '' })
    connection.parse({ name: '', text: 'commit', types: [] })
    connection.bind({ statement: '', values: [] })
    connection.execute({ portal: '' })
    connection.sync()
  }
  override handleCommandComplete(message: Message & { text?: string }, connection: Connection): void {
    if (this.isCommitting) this.outcome = message.text ?? ''
    else super.handleCommandComplete(message, connection)
    this.isCommitting = true
  }
}

/** Runs the last statement of the open transaction and commits it. Returns the command tag of the commit. */
export async function queryAndCommit(
  client: pg.PoolClient,
  config: { text: string; values: unknown[]; name?: string },
): Promise<string> {
  return new Promise((resolve, reject) => {
    const callback = (error: Error | null) => (error ? reject(error) : resolve(query.outcome))
    const query: LastQuery = new LastQuery({ ...config, queryMode: 'extended', callback })
    client.query(query as unknown as pg.Submittable)
  })
}
