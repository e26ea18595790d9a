/**
 * Brings images onto this host. A step starts the importer, a process of its own, and later steps look at its files;
 * a dead importer is started again and goes on where it was. The finished folder is renamed to its place, once: an
 * image never changes under the disks that stand on it.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { Reconcile } from '../engine/loop.ts'
import { record } from '../engine/record.ts'
import type { Claim } from '../engine/work.ts'
import { wakeInstancesWaitingForImage } from '../instances/store.ts'
import { signal } from '../lib/processes.ts'
import { killLeftovers } from './importer/children.ts'
import type { Job } from './importer/job.ts'
import { readStatus, writeJob } from './importer/job-files.ts'
import { runningImporter, startImporter } from './process.ts'
import type { ImageRow } from './row.ts'
import { loadImage, lockImage, purgeImage, recordImport } from './store.ts'

/** Seconds between looks at a running import: how fresh `progress` is. */
const POLL_INTERVAL_SECONDS = 1
/** Seconds between tries to forget a removed image that terminated instances still name. */
const PURGE_INTERVAL_SECONDS = 3600
/** Starts of an importer that dies without a word before the import counts as failed. */
const MAX_STARTS = 5
const RECIPES = join(import.meta.dirname, '../../../images')

/** The process that does the work of one job folder; see process.ts. */
export type Importer = { start: typeof startImporter; running: typeof runningImporter }

/** Looks at one image: starts its import, follows it, puts it in its place, or removes it. */
export function imageReconciler(
  deps: Deps,
  importer: Importer = { start: startImporter, running: runningImporter },
): Reconcile {
  return async (claimed) => {
    const row = await loadImage(deps.sql, claimed.id)
    if (!row) return { after_seconds: null }
    const folders = foldersOf(deps.config, row.id)
    if (row.wanted_gone) return remove(deps, importer, row, folders)
    if (row.wanted_import === 0 && !existsSync(folders.final)) return { after_seconds: null }
    if (existsSync(folders.final)) {
      const manifest = JSON.parse(readFileSync(join(folders.final, 'manifest.json'), 'utf8'))
      await recordProgress(deps, claimed, row, { state: 'present', progress: null, error: null, manifest })
      rmSync(folders.job, { recursive: true, force: true })
      return { after_seconds: null }
    }
    if (row.observed_import === row.wanted_import && row.observed_state === 'failed') return { after_seconds: null }
    return await followImport(deps, importer, claimed, row, folders)
  }
}

type Folders = { job: string; final: string; upload: string }

/** Where an image's bytes are: while they come, when they are there, and where an upload is put down. */
export function foldersOf(config: Pick<Config, 'data_dir'>, id: string): Folders {
  const at = (folder: string, name: string) => join(config.data_dir, folder, name)
  return { job: at('imports', id), final: at('images', id), upload: at('uploads', `${id}.part`) }
}

async function followImport(deps: Deps, importer: Importer, claimed: Claim, row: ImageRow, folders: Folders) {
  const importing = row.observed_state === 'importing' && row.observed_import === row.wanted_import
  if (!importing) {
    // A new try begins from nothing but the bytes that a download may resume.
    rmSync(join(folders.job, 'status.json'), { force: true })
    writeJob(folders.job, jobOf(deps.config, row, folders))
    await recordProgress(deps, claimed, row, { state: 'importing', progress: null, error: null, manifest: null })
    importer.start(folders.job)
    return { after_seconds: POLL_INTERVAL_SECONDS }
  }
  const status = readStatus(folders.job)
  if (status?.state === 'done') {
    mkdirSync(join(deps.config.data_dir, 'images'), { recursive: true })
    renameSync(join(folders.job, 'output'), folders.final)
    rmSync(folders.upload, { force: true })
    return { after_seconds: 0 }
  }
  if (status?.state === 'failed' && status.error) {
    deps.log.warn({ image: row.id, code: status.error.code, error: status.error.message }, 'import failed')
    await recordProgress(deps, claimed, row, { state: 'failed', progress: null, error: status.error, manifest: null })
    rmSync(folders.job, { recursive: true, force: true })
    rmSync(folders.upload, { force: true })
    return { after_seconds: null }
  }
  if (!importer.running(folders.job)) {
    if (claimed.attempts >= MAX_STARTS) {
      const error = {
        code: 'image_import_died',
        message: `The import of ${row.name} ended without a result. Retry the import.`,
      }
      await recordProgress(deps, claimed, row, { state: 'failed', progress: null, error, manifest: null })
      return { after_seconds: null }
    }
    importer.start(folders.job)
    throw new Error(`the importer of ${row.id} had ended; it was started again`)
  }
  const progress = status && {
    phase: status.phase,
    percent: status.progress === null ? null : Math.round(status.progress * 100),
    done_bytes: status.done_bytes,
    total_bytes: status.total_bytes,
  }
  await recordProgress(deps, claimed, row, { state: 'importing', progress, error: null, manifest: null })
  return { after_seconds: POLL_INTERVAL_SECONDS }
}

type Import = Parameters<typeof recordImport>[2]

/** Writes what was seen, and wakes the instances that wait when an import has ended. */
async function recordProgress(deps: Deps, claimed: Claim, row: ImageRow, seen: Import): Promise<void> {
  const lock = (tx: Transaction) => lockImage(tx, row.id)
  await record(deps, claimed, 'live', lock, async (tx, outbox) => {
    await recordImport(tx, row, seen)
    if (seen.state !== 'importing') await wakeInstancesWaitingForImage(tx, outbox, row.id)
  })
}

async function remove(deps: Deps, importer: Importer, row: ImageRow, folders: Folders) {
  const running = importer.running(folders.job)
  if (running) signal(running, 'SIGTERM')
  if (existsSync(folders.job)) await killLeftovers(folders.job)
  for (const path of [folders.job, folders.final, folders.upload]) rmSync(path, { recursive: true, force: true })
  return { after_seconds: (await purgeImage(deps.sql, row.id)) ? null : PURGE_INTERVAL_SECONDS }
}

/** The importer's input for this image's source. */
function jobOf(config: Config, row: ImageRow, folders: Folders): Job {
  const { source } = row
  const disk = {
    max_virtual_size_bytes: Math.max(...config.plans.map((plan) => plan.disk_bytes)),
    ready_signal: row.ready_signal,
    ssh_user: row.ssh_user,
  }
  const download = {
    ...disk,
    max_bytes: config.image_max_bytes,
    allowed_addresses: config.image_allow,
    stall_timeout_seconds: config.image_stall_timeout_seconds,
  }
  switch (source.kind) {
    case 'recipe':
      return { kind: 'recipe', script: join(RECIPES, source.recipe, 'build.sh') }
    case 'url':
      return { kind: 'url', url: source.url, sha256: source.sha256, ...download }
    case 'upload': {
      const sum = source.sha256 ? { sha256: source.sha256 } : {}
      return { kind: 'upload', path: folders.upload, ...sum, max_bytes: config.image_max_bytes, ...disk }
    }
    case 'publisher': {
      const mirror = config.mirrors[source.publisher]
      if (!mirror) throw new Error(`no mirror is configured for ${source.publisher}`)
      return {
        kind: 'publisher',
        base_url: `${mirror.url.replace(/\/$/, '')}/${source.path}/`,
        sums_name: 'SHA256SUMS',
        signature_name: 'SHA256SUMS.gpg',
        file_name: source.file,
        keyring: mirror.keyring,
        fingerprints: mirror.fingerprints,
        ...download,
      }
    }
  }
}
