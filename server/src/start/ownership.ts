/**
 * One database belongs to one data directory. Two control planes on one database would each run its instances, in two
 * processes on the same disk, and overwrite each other's IP addresses and secrets.
 *
 * The table `installation` names the data directory; a session-level advisory lock shows that its control plane runs. A
 * data directory that was copied has the same ID and secrets, so it is recognised by a mark that a copy does not keep.
 */
import { createHash } from 'node:crypto'
import { existsSync, statSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { poolConfig } from '../db/pools.ts'
import { pinSession } from '../db/session.ts'
import type { Clock } from '../lib/clock.ts'
import { StartupError } from '../lib/errors.ts'
import type { Log } from '../lib/log.ts'
import type { Secrets } from '../lib/secrets.ts'
import { INSTALLATION_FILE } from './installation.ts'

/** Advisory lock of the control plane that runs on the database. */
const LOCK = 7_202_603
const TIMEOUT_MS = 10_000
const RECONNECT_MS = 1_000
const RETRY_MS = 100
/** For the server to end the session of a control plane that was killed. */
const STALE_LOCK_MS = 10_000

/** What the database stores of its data directory. */
export type Owner = {
  id: string
  secrets_digest: string
  directory_mark: string
  data_dir: string
  host: string
}

/** The owner that this data directory would be. */
export function ownerOf(installation: { id: string }, dataDir: string, secrets: Secrets): Owner {
  return {
    id: installation.id,
    secrets_digest: digestOf(secrets),
    directory_mark: directoryMark(dataDir),
    data_dir: dataDir,
    host: hostname(),
  }
}

/** Of the secrets that values in the database depend on. */
function digestOf({ pepper, seal_key }: Secrets): string {
  return createHash('sha256').update('cloudnexus installation').update(pepper).update(seal_key).digest('hex')
}

/**
 * The inode of a file that is never written again, and when it was created: both differ in a copy, and not after a rename. A
 * file system without creation times reports that of the last change in its place, which is left out.
 */
function directoryMark(dataDir: string): string {
  const { ino, birthtimeNs, ctimeNs } = statSync(join(dataDir, INSTALLATION_FILE), { bigint: true })
  return `${ino}:${birthtimeNs === ctimeNs || birthtimeNs <= 0n ? '' : birthtimeNs}`
}

/** Whether two marks are of the same file. Exported for its test. */
export function isSameMark(one: string, other: string): boolean {
  const [[inode, created], [otherInode, otherCreated]] = [one.split(':'), other.split(':')]
  return inode === otherInode && (created === '' || otherCreated === '' || created === otherCreated)
}

export type Decision = { kind: 'same' } | { kind: 'take' } | { kind: 'refuse'; reason: string }

/**
 * Whether this data directory may use the database.
 * @param stored the owner in the database; null: it has none yet
 * @param isGone whether the stored data directory was on this host and no longer exists
 */
export function decide(stored: Owner | null, own: Owner, isGone: boolean, takeOver: boolean): Decision {
  if (stored === null) return { kind: 'take' }
  if (stored.id !== own.id || stored.secrets_digest !== own.secrets_digest) {
    const what = stored.id === own.id ? 'with other secrets' : `(installation ${stored.id})`
    return {
      kind: 'refuse',
      reason: `The database belongs to another data directory ${what}: ${stored.data_dir} on ${stored.host}. Use another database for this one.`,
    }
  }
  if (isSame(stored, own)) return { kind: 'same' }
  if (isGone || takeOver) return { kind: 'take' }
  return {
    kind: 'refuse',
    reason: `${own.data_dir} is a copy of the data directory that the database belongs to: ${stored.data_dir} on ${stored.host}. Two control planes would run each machine twice. If the original is gone permanently, start once with --take-over.`,
  }
}

export type Ownership = {
  /** Stores this data directory as the owner. Call it after the migrations. */
  record(now: Date): Promise<void>
  /** Calls `lost` when another control plane has taken the database over while the connection was interrupted. */
  watch(lost: (reason: string) => void): void
  close(): Promise<void>
}

type Options = { url: string; own: Owner; take_over: boolean; clock: Clock; log: Log }

/** Takes the lock of the database, before anything is written. Rejects with a StartupError that says what to do. */
export async function openOwnership({ url, own, take_over, clock, log }: Options): Promise<Ownership> {
  let client = await connect(url)
  let isClosed = false
  try {
    await claim(client)
  } catch (error) {
    await client.end()
    throw error
  }

  async function claim(on: pg.Client): Promise<void> {
    const deadline = clock.monotonic() + STALE_LOCK_MS
    // The server may not have ended the session of a control plane that was killed a moment ago.
    while (!(await tryLock(on))) {
      const other = await readOwner(on)
      const isOther = other !== null && !isSame(other, own)
      if (isOther || clock.monotonic() > deadline) throw new StartupError(isRunning(other, own))
      await clock.sleep(RETRY_MS)
    }
    const stored = await readOwner(on)
    const isGone = stored?.host === own.host && !existsSync(stored.data_dir)
    const decision = decide(stored, own, isGone, take_over)
    if (decision.kind === 'refuse') throw new StartupError(decision.reason)
    if (decision.kind === 'take' && stored) {
      log.warn({ from: stored.data_dir, host: stored.host, to: own.data_dir }, 'took the database over')
    }
  }

  async function reclaim(): Promise<string | null> {
    while (!isClosed) {
      await clock.sleep(RECONNECT_MS)
      const next = await connect(url).catch(() => null)
      if (next === null) continue
      const reason = await reasonLost(next, own).catch(() => undefined)
      if (reason === null && !isClosed) {
        client = next
        return null
      }
      await next.end().catch(() => {})
      if (reason) return reason
    }
    return null
  }

  function watch(lost: (reason: string) => void): void {
    client.once('end', async () => {
      if (isClosed) return
      const reason = await reclaim()
      if (reason) lost(reason)
      else if (!isClosed) watch(lost)
    })
  }

  return {
    async record(now) {
      const { id, secrets_digest, directory_mark, data_dir, host } = own
      await client.query(
        `insert into installation (id, secrets_digest, directory_mark, data_dir, host, started_at)
         values ($1, decode($2, 'hex'), $3, $4, $5, $6)
         on conflict (is_only) do update set id = excluded.id, secrets_digest = excluded.secrets_digest,
           directory_mark = excluded.directory_mark, data_dir = excluded.data_dir, host = excluded.host,
           started_at = excluded.started_at`,
        [id, secrets_digest, directory_mark, data_dir, host, now],
      )
    },
    watch,
    async close() {
      isClosed = true
      await client.end()
    },
  }
}

/** Why another control plane owns the database now; null: this connection has the lock again; undefined: not known yet. */
async function reasonLost(client: pg.Client, own: Owner): Promise<string | null | undefined> {
  const stored = await readOwner(client)
  if (!isSame(stored, own)) return isRunning(stored, own)
  // The lock can still be that of this process's former session, which the server has not ended yet.
  return (await tryLock(client)) ? null : undefined
}

async function tryLock(client: pg.Client): Promise<boolean> {
  return (await client.query(`select pg_try_advisory_lock(${LOCK}) as locked`)).rows[0].locked
}

const isSame = (stored: Owner | null, own: Owner) =>
  stored !== null && isSameMark(stored.directory_mark, own.directory_mark)

function isRunning(stored: Owner | null, own: Owner): string {
  const other = stored && !isSame(stored, own) ? `: ${stored.data_dir} on ${stored.host}` : ''
  return `Another control plane runs on this database${other}. Stop it first, or use another database.`
}

async function readOwner(client: pg.Client): Promise<Owner | null> {
  const [table] = (await client.query(`select to_regclass('public.installation') is not null as found`)).rows
  if (!table.found) return null
  const { rows } = await client.query<Owner>(
    `select id, encode(secrets_digest, 'hex') as secrets_digest, directory_mark, data_dir, host from installation`,
  )
  return rows[0] ?? null
}

async function connect(url: string): Promise<pg.Client> {
  const limits = { query_timeout: TIMEOUT_MS, connectionTimeoutMillis: TIMEOUT_MS, keepAlive: true }
  const client = new pg.Client({ ...poolConfig(url, 'cloudnexus'), ...limits })
  client.on('error', () => {})
  await client.connect()
  await pinSession(client)
  return client
}
