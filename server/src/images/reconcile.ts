/**
 * Imports images to this host. A pass starts the importer as a separate process, and later passes read its files. An
 * importer that died is restarted and resumes. The finished folder is renamed to its final name once; after that an image
 * never changes, because disks are based on it.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config.ts'
import type { Transaction } from '../db/database.ts'
import { belongsToOperator } from '../db/operator.ts'
import type { Deps } from '../deps.ts'
import type { Reconcile } from '../engine/loop.ts'
import { record } from '../engine/record.ts'
import type { Claim } from '../engine/work.ts'
import type { Outbox } from '../events/outbox.ts'
import { usedBytes } from '../lib/files.ts'
import { InsufficientCapacity, QuotaExceeded } from '../lib/insufficient-capacity.ts'
import { signal } from '../lib/processes.ts'
import { hasImportSlot, takeImportSlot } from './import-slots.ts'
import { killLeftovers } from './importer/children.ts'
import { readGrant, writeGrant } from './importer/grant.ts'
import { readStatus, writeJob } from './importer/job-files.ts'
import { jobOf } from './job.ts'
import { runningImporter, startImporter } from './process.ts'
import { reserveBytes, settleBytes } from './reserve.ts'
import type { ImageRow } from './row.ts'
import { loadImage, lockImage, purgeImage, recordImport } from './store.ts'

/** Poll interval of a running import, and therefore the age of `progress`. */
const POLL_INTERVAL_SECONDS = 1
/** Interval at which an import that waits for a slot tries again. */
const WAIT_SECONDS = 2
/** Interval at which the purge of a deleted image is retried while terminated instances refer to it. */
const PURGE_INTERVAL_SECONDS = 3600
/** What a recipe writes, at most: a system with its packages, and a disk made of it. */
const RECIPE_BYTES = 2 * 2 ** 30
/** Number of starts after which an importer that dies without a result has failed. */
const MAX_STARTS = 5

/** Starts and finds the process of a job folder; see process.ts. */
export type Importer = { start: typeof startImporter; running: typeof runningImporter }

/** `onImportEnd` wakes, in the transaction that records the end of an import, what waits for the image. */
type ImageDeps = Deps & { onImportEnd: (tx: Transaction, outbox: Outbox, imageId: string) => Promise<void> }

/** Runs one pass on an image: starts its import, records its progress, moves the result, or deletes the image. */
export function imageReconciler(
  deps: ImageDeps,
  importer: Importer = { start: startImporter, running: runningImporter },
): Reconcile {
  return async (claimed) => {
    const row = await loadImage(deps.sql, claimed.id)
    if (!row) return { after_seconds: null }
    const folders = foldersOf(deps.config, row.id)
    if (row.wanted_gone) return remove(deps, importer, claimed, row, folders)
    if (row.wanted_import === 0 && !existsSync(folders.final)) return { after_seconds: null }
    if (existsSync(folders.final)) {
      const manifest = JSON.parse(readFileSync(join(folders.final, 'manifest.json'), 'utf8'))
      const occupied = usedBytes(folders.final)
      await recordObserved(deps, claimed, row, { state: 'present', progress: null, error: null, manifest }, occupied)
      rmSync(folders.job, { recursive: true, force: true })
      return { after_seconds: null }
    }
    if (row.observed_import === row.wanted_import && row.observed_state === 'failed') return { after_seconds: null }
    if (row.observed_state === 'importing' && row.observed_import === row.wanted_import)
      return await followImport(deps, importer, claimed, row, folders)
    return await startImport(deps, importer, claimed, row, folders)
  }
}

type Folders = { job: string; final: string; upload: string }

/** The folder of an import, the folder of an imported image, and the file of an upload. */
function foldersOf(config: Pick<Config, 'data_dir'>, id: string): Folders {
  const at = (folder: string, name: string) => join(config.data_dir, folder, name)
  return { job: at('imports', id), final: at('images', id), upload: at('uploads', `${id}.part`) }
}

/** Starts an import if a slot is free. If its bytes cannot be reserved, it has failed. */
async function startImport(deps: ImageDeps, importer: Importer, claimed: Claim, row: ImageRow, folders: Folders) {
  if (!(await hasImportSlot(deps.sql, deps.config, row.id))) return { after_seconds: WAIT_SECONDS }
  // A retry keeps only the partial download, which may be resumed.
  rmSync(join(folders.job, 'status.json'), { force: true })
  const isOperators = row.environment_id === null || (await belongsToOperator(deps.sql, row.environment_id))
  writeJob(folders.job, jobOf(deps.config, row, folders.upload, isOperators))
  const needed = row.source.kind === 'recipe' ? RECIPE_BYTES : row.reserved_bytes
  if (!(await reserveFor(deps, importer, claimed, row, folders, needed))) return { after_seconds: null }
  const lock = (tx: Transaction) => lockImage(tx, row.id)
  const begins = await record(deps, claimed, lock, async (tx) => {
    if (!(await takeImportSlot(tx, deps.config, row.id))) return false
    await recordImport(tx, row, { state: 'importing', progress: null, error: null, manifest: null })
    return true
  })
  if (!begins) return { after_seconds: WAIT_SECONDS }
  importer.start(folders.job)
  return { after_seconds: POLL_INTERVAL_SECONDS }
}

async function followImport(deps: ImageDeps, importer: Importer, claimed: Claim, row: ImageRow, folders: Folders) {
  const status = readStatus(folders.job)
  if (status?.state === 'done') {
    mkdirSync(join(deps.config.data_dir, 'images'), { recursive: true })
    renameSync(join(folders.job, 'output'), folders.final)
    rmSync(folders.upload, { force: true })
    return { after_seconds: 0 }
  }
  if (status?.state === 'failed' && status.error) {
    deps.log.warn({ image: row.id, code: status.error.code, error: status.error.message }, 'import failed')
    await recordFailure(deps, claimed, row, folders, status.error)
    return { after_seconds: null }
  }
  if (!importer.running(folders.job)) {
    if (claimed.attempts >= MAX_STARTS) {
      const error = {
        code: 'image_import_died',
        message: `The import of ${row.name} ended without a result. Retry the import.`,
      }
      await recordObserved(deps, claimed, row, { state: 'failed', progress: null, error, manifest: null })
      return { after_seconds: null }
    }
    importer.start(folders.job)
    throw new Error(`the importer of ${row.id} had died and was restarted`)
  }
  const needed = status?.needed_bytes ?? 0
  if (!(await reserveFor(deps, importer, claimed, row, folders, needed))) return { after_seconds: null }
  const progress = status && {
    phase: status.phase,
    percent: status.progress === null ? null : Math.round(status.progress * 100),
    done_bytes: status.done_bytes,
    total_bytes: status.total_bytes,
  }
  await recordObserved(deps, claimed, row, { state: 'importing', progress, error: null, manifest: null })
  return { after_seconds: POLL_INTERVAL_SECONDS }
}

/**
 * Reserves what an import is going to occupy, and grants it. False if that is refused: then the import has failed. The
 * grant is written after the reservation is stored, also by the pass after a crash in between.
 */
async function reserveFor(
  deps: ImageDeps,
  importer: Importer,
  claimed: Claim,
  row: ImageRow,
  folders: Folders,
  needed: number,
): Promise<boolean> {
  const lock = (tx: Transaction) => lockImage(tx, row.id)
  try {
    if (needed > row.reserved_bytes)
      await record(deps, claimed, lock, (tx, outbox, locked) => reserveBytes(tx, outbox, deps, locked, needed))
  } catch (error) {
    if (!(error instanceof InsufficientCapacity)) throw error
    await endImporter(importer, folders)
    const code = error instanceof QuotaExceeded ? 'image_quota_exceeded' : 'image_disk_full'
    await recordFailure(deps, claimed, row, folders, { code, message: error.message })
    return false
  }
  const granted = Math.max(needed, row.reserved_bytes)
  if (granted > readGrant(folders.job)) writeGrant(folders.job, granted)
  return true
}

/** Records a failed import, and removes its files and its reservation. */
async function recordFailure(
  deps: ImageDeps,
  claimed: Claim,
  row: ImageRow,
  folders: Folders,
  error: NonNullable<Import['error']>,
): Promise<void> {
  rmSync(folders.job, { recursive: true, force: true })
  rmSync(folders.upload, { force: true })
  await recordObserved(deps, claimed, row, { state: 'failed', progress: null, error, manifest: null }, 0)
}

type Import = Parameters<typeof recordImport>[2]

/**
 * Records the observed state, and wakes waiting instances when the import has ended.
 * @param occupied the bytes that the image occupies from now on; absent while that changes
 */
async function recordObserved(
  deps: ImageDeps,
  claimed: Claim,
  row: ImageRow,
  observed: Import,
  occupied?: number,
): Promise<void> {
  const lock = (tx: Transaction) => lockImage(tx, row.id)
  await record(deps, claimed, lock, async (tx, outbox, locked) => {
    await recordImport(tx, row, observed)
    if (occupied !== undefined) await settleBytes(tx, outbox, locked, occupied)
    if (observed.state !== 'importing') await deps.onImportEnd(tx, outbox, row.id)
  })
}

async function remove(deps: ImageDeps, importer: Importer, claimed: Claim, row: ImageRow, folders: Folders) {
  await endImporter(importer, folders)
  for (const path of [folders.job, folders.final, folders.upload]) rmSync(path, { recursive: true, force: true })
  const lock = (tx: Transaction) => lockImage(tx, row.id)
  const purged = await record(deps, claimed, lock, async (tx, outbox, locked) => {
    await settleBytes(tx, outbox, locked, 0)
    return purgeImage(tx, row.id)
  })
  return { after_seconds: purged === false ? PURGE_INTERVAL_SECONDS : null }
}

async function endImporter(importer: Importer, { job }: Folders): Promise<void> {
  const running = importer.running(job)
  if (running) signal(running, 'SIGTERM')
  if (existsSync(job)) await killLeftovers(job)
}
