/**
 * A statement and the commit behind it, in one message.
 *
 * Some statements take a lock that everybody else of a tenant waits for until the commit. Were the commit a message of
 * its own, they would wait for our event loop, too: for the answer to be read and the next message to be written, while
 * other requests have their turn. The server runs both one after the other and skips the commit if the statement fails,
 * because there is one Sync, at the end.
 */
import type pg from 'pg'
import { Base, type Connection, type Message } from './bound-query.ts'

class LastQuery extends Base {
  private isCommitting = false
  /** What the server calls the end of the transaction: COMMIT, or ROLLBACK if a statement before had failed. */
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

/** Runs the last statement of the open transaction and commits it. Answers what the server made of the commit. */
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
