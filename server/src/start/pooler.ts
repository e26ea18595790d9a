import pg from 'pg'
import { poolConfig } from '../db/pools.ts'

const ROUNDS = 5
const NAME = 'cloudnexus.session_probe'

/**
 * Whether the connection string leads to a pooler that gives each transaction another connection to the server. Nothing
 * that belongs to a session works through it: prepared statements, LISTEN, advisory locks, settings.
 *
 * A pooler sends a process ID of its own when a connection opens. If it does, one connection sets a value for its
 * session, and reads it back while the other one has a transaction open, which must not see it.
 */
export async function isTransactionPooler(url: string): Promise<boolean> {
  const [first, second] = await Promise.all([open(url), open(url)])
  try {
    if (await isDirect(first)) return false
    for (let round = 0; round < ROUNDS; round++) {
      await first.query(`select set_config('${NAME}', 'first ${round}', false)`)
      await second.query('begin')
      const [seen] = (await second.query(`select current_setting('${NAME}', true) as value`)).rows
      const [kept] = (await first.query(`select current_setting('${NAME}', true) as value`)).rows
      await second.query('rollback')
      if (seen.value || kept.value !== `first ${round}`) return true
    }
    return false
  } finally {
    await Promise.all([first.end(), second.end()])
  }
}

async function open(url: string): Promise<pg.Client> {
  const client = new pg.Client({
    ...poolConfig(url, 'cloudnexus'),
    query_timeout: 10_000,
    connectionTimeoutMillis: 10_000,
  })
  client.on('error', () => {})
  await client.connect()
  return client
}

async function isDirect(client: pg.Client): Promise<boolean> {
  const { processID } = client as unknown as { processID: number | null }
  const [row] = (await client.query('select pg_backend_pid() as pid')).rows
  return row.pid === processID
}
