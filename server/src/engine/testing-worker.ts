/** A worker for `loop.test.ts`: claims a key, reports it, and stays in its step until the process is killed. */
import { connect } from '../db/database.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { createEngine } from './loop.ts'

const sql = connect({ url: process.argv[2]!, max: 3, name: 'test-worker' })
const orphaned = () => {
  process.send!('in step')
  return new Promise<never>(() => {})
}
const engine = createEngine({ sql, clock: systemClock, log: silentLog, worker: 'victim', reconcilers: { orphaned } })
await engine.start()
