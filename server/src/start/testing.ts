/** Opens a database as a start does, for tests. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import type { Config } from '../config.ts'
import { createTestDatabase } from '../db/testing.ts'
import { systemClock as clock } from '../lib/clock.ts'
import { StartupError } from '../lib/errors.ts'
import { silentLog as log } from '../lib/log.ts'
import { openDatabase } from './database.ts'
import { INSTALLATION_FILE } from './installation.ts'
import { createSteps } from './shutdown.ts'

/** A data directory with nothing but the file that identifies it; removed after the tests. */
export function createDataDir(id = 'aaaa'): string {
  const folder = mkdtempSync(join(tmpdir(), 'cloudnexus-data-'))
  writeFileSync(join(folder, INSTALLATION_FILE), JSON.stringify({ id }))
  after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

export type Opening = { data_dir: string; id?: string; take_over?: boolean; key?: number; secret?: number }

export const secretsOf = ({ key = 1, secret = 1 }: Pick<Opening, 'key' | 'secret'>) => {
  const bytes = (value: number) => new Uint8Array(32).fill(value)
  return { pepper: bytes(secret), cursor_key: bytes(secret), seal_key: bytes(secret), database_key: bytes(key) }
}

/** Opens a database with these URLs. `stop` closes it; a database that is rejected is closed already. */
export async function openForTest(
  urls: Partial<Pick<Config, 'database_url' | 'database_app_url' | 'database_engine_url'>>,
  { data_dir, id = 'aaaa', take_over = false, ...of }: Opening,
) {
  const closing = createSteps(clock, log)
  const stop = () => closing.run(5_000)
  const none = { postgres: 'embedded' as const, database_url: null, database_app_url: null, database_engine_url: null }
  const identity = { installation: { id }, secrets: secretsOf(of), take_over }
  try {
    return {
      ...(await openDatabase({ ...none, data_dir, run_dir: data_dir, ...urls }, identity, { clock, log, closing })),
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Creates empty databases on the server of the tests. */
export async function createDatabases() {
  const { owner: admin, url } = await createTestDatabase()
  let made = 0
  const urlOf = (name: string) => url.replace(/\/[^/?]*(\?|$)/, `/${name}$1`)
  return {
    admin,
    url,
    urlOf,
    /** Creates a database with these options, runs the statements on it, and returns its connection string. */
    async create(options = '', statements: (name: string) => string[] = () => []): Promise<string> {
      const name = `start_${process.pid}_${made++}`
      await admin.unsafe(`create database ${name} ${options}`)
      for (const statement of statements(name)) await admin.unsafe(statement)
      return urlOf(name)
    },
  }
}

/** The one line with which opening the database is rejected. */
export async function rejectionOf(
  urls: Partial<Pick<Config, 'database_url' | 'database_app_url' | 'database_engine_url'>>,
  opening: Opening,
): Promise<string> {
  const error = await openForTest(urls, opening).then(
    () => assert.fail('the database was opened'),
    (error: unknown) => error,
  )
  assert.ok(error instanceof StartupError, String((error as Error).stack))
  assert.equal(error.message.split('\n').length, 1)
  return error.message
}
