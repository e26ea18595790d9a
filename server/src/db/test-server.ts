import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { createEmbeddedPostgres } from './embedded.ts'

/** Starts a temporary server for tests, without durability. */
export async function startTestServer(): Promise<{ url: string; stop: () => Promise<void> }> {
  const dir = mkdtempSync(join(tmpdir(), 'cloudnexus-test-'))
  const settings = { fsync: 'off', synchronous_commit: 'off', max_connections: '300' }
  const options = { data_dir: dir, run_dir: dir, log: silentLog, clock: systemClock, settings }
  const server = createEmbeddedPostgres(options)
  await server.start()
  return {
    url: server.url('postgres'),
    stop: async () => {
      await server.stop(5_000)
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
