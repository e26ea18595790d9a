import type { Static } from 'typebox'
import type { Query, Sql, Transaction } from '../db/database.ts'
import { belongsToOperator } from '../db/operator.ts'
import type { Deps } from '../deps.ts'
import type { MachineImage } from '../drivers/driver.ts'
import { isIdle } from '../engine/work.ts'
import type { Outbox } from '../events/outbox.ts'
import { checkIfMatch } from '../http/etag.ts'
import { type Window, windowSql } from '../http/list.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError, notFound } from '../lib/errors.ts'
import { isId, newId } from '../lib/id.ts'
import { rangesFor } from '../lib/tenant-ranges.ts'
import type { CatalogImage } from './catalog.ts'
import { checkSource } from './check-source.ts'
import { reserveBytes } from './reserve.ts'
import type { ImageProgress, ImageRow } from './row.ts'
import type { ImageCreate } from './schema.ts'
import { showImage } from './show.ts'

/** Condition for the images that an environment can use: its own and those of the catalogue. */
const visible = (query: Query, environmentId: string) =>
  query`(environment_id is null or environment_id = ${environmentId}) and not wanted_gone`

export async function listImages(
  sql: Sql,
  environmentId: string,
  name: string | undefined,
  window: Window,
): Promise<ImageRow[]> {
  const filter = name === undefined ? sql`` : sql`and name = ${name}`
  return sql<ImageRow[]>`select * from images where ${visible(sql, environmentId)} ${filter} ${windowSql(sql, window)}`
}

/** Finds an image by ID or name. A transaction that creates an instance uses `findImage` instead. */
export async function readImage(query: Query, environmentId: string, idOrName: string): Promise<ImageRow | null> {
  const column = isId('img', idOrName) ? query`id` : query`name`
  const [row] = await query<ImageRow[]>`
    select * from images where ${column} = ${idOrName} and ${visible(query, environmentId)}
    order by environment_id nulls last limit 1`
  return row ?? null
}

/** Like `readImage`, but also prevents the deletion of the image until the transaction ends. */
export async function findImage(tx: Transaction, environmentId: string, idOrName: string): Promise<ImageRow | null> {
  const seen = await readImage(tx, environmentId, idOrName)
  if (!seen) return null
  const [held] = await tx<ImageRow[]>`select * from images where id = ${seen.id} and not wanted_gone for key share`
  return held ?? null
}

/** Reads an image of any environment, for the engine. */
export async function loadImage(query: Query, id: string): Promise<ImageRow | null> {
  const [row] = await query<ImageRow[]>`select * from images where id = ${id}`
  return row ?? null
}

/** Locks the row of any tenant until the transaction ends, for the engine. */
export async function lockImage(tx: Transaction, id: string): Promise<ImageRow | null> {
  const [row] = await tx<ImageRow[]>`select * from images where id = ${id} for no key update`
  return row ?? null
}

/**
 * Requests the import of an image, unless it is on the host or is being imported; retries a failed import.
 * Throws `invalid_state` for an upload without content.
 */
export async function ensureImport(tx: Transaction, outbox: Outbox, imageId: string): Promise<void> {
  const [row] = await tx<ImageRow[]>`
    select * from images where id = ${imageId} and observed_state in ('absent', 'failed')
      and observed_import = wanted_import for no key update`
  if (!row) return
  if (row.source.kind === 'upload') throw contentMissingError(row)
  if (row.environment_id !== null) return requestImport(tx, outbox, row.id, row.environment_id)
  // The row and the work of a catalogue image belong to the installation, so a function of the database updates the row.
  const [request] = await tx<{ isNew: boolean }[]>`select import_catalogue_image(${row.id}) as "isNew"`
  if (request!.isNew) outbox.wakes.push({ kind: 'image', id: row.id, environment_id: 'env_system' })
}

async function requestImport(tx: Transaction, outbox: Outbox, id: string, environment_id: string): Promise<void> {
  await tx`update images set wanted_import = wanted_import + 1 where id = ${id}`
  outbox.wakes.push({ kind: 'image', id, environment_id })
}

function contentMissingError(row: ImageRow): ApiError {
  const why = row.observed_state === 'failed' ? 'was rejected' : 'has not been uploaded'
  const detail = `The content of the image ${row.name} ${why}. Upload it with PUT /v2/images/${row.id}/content.`
  return new ApiError('invalid_state', detail, { extensions: { status: showImage(row).status } })
}

/** Throws `validation_failed`, or `already_exists` if the environment or the catalogue has an image with this name. */
export async function createImage(
  tx: Transaction,
  outbox: Outbox,
  deps: Deps,
  principal: Principal,
  body: Static<typeof ImageCreate>,
): Promise<ImageRow> {
  const { environment_id, mode } = principal
  const isOperators = await belongsToOperator(tx, environment_id)
  const source = checkSource(body, rangesFor(deps.config, deps.config.image_allow, isOperators))
  const [row] = await tx<ImageRow[]>`
    insert into images (id, environment_id, name, description, source, ready_signal, ssh_user, created_at)
    select ${newId('img', deps.random)}, ${environment_id}, ${body.name}, ${body.description ?? ''},
      ${tx.json(source)}, ${body.ready_signal ?? 'process'}, ${body.ssh_user ?? 'root'},
      environment_now(${environment_id})
    where not exists (select from images where environment_id is null and name = ${body.name})
    on conflict (environment_id, name) do nothing returning *`
  if (!row) {
    const detail = `An image with the name ${body.name} already exists. Choose another name, or delete that image first.`
    throw new ApiError('already_exists', detail)
  }
  outbox.use.images += 1
  if (source.kind === 'upload') return row
  // Simulated machines need no image file.
  if (mode === 'test') return setPresent(tx, row.id)
  await requestImport(tx, outbox, row.id, environment_id)
  return row
}

async function setPresent(tx: Transaction, id: string): Promise<ImageRow> {
  const [row] = await tx<ImageRow[]>`update images set observed_state = 'present' where id = ${id} returning *`
  return row!
}

/**
 * Records a complete upload and requests its import. Throws `conflict` if the image already has its content.
 * @param put moves the file to the importer; called while the row is locked
 * @param bytes what the upload has reserved, which stays reserved for the import, and nothing else
 */
export async function receiveContent(
  tx: Transaction,
  outbox: Outbox,
  deps: Pick<Deps, 'imageSpaceBytes'>,
  { environment_id, mode }: Principal,
  id: string,
  put: () => void,
  bytes: number,
): Promise<{ before: ImageRow; after: ImageRow }> {
  const [row] = await tx<ImageRow[]>`
    select * from images where id = ${id} and environment_id = ${environment_id} and not wanted_gone
    for no key update`
  if (!row) throw notFound('image', id)
  checkAwaitsContent(row)
  if (mode === 'test') return { before: row, after: await setPresent(tx, id) }
  await reserveBytes(tx, outbox, deps, row, bytes)
  put()
  await requestImport(tx, outbox, row.id, environment_id)
  return { before: row, after: (await loadImage(tx, id))! }
}

/** Throws `conflict` unless the image is an upload that waits for its content or whose content was rejected. */
export function checkAwaitsContent(row: ImageRow): void {
  const idle = row.observed_import === row.wanted_import && ['absent', 'failed'].includes(row.observed_state)
  if (row.source.kind === 'upload' && idle) return
  const detail =
    row.source.kind === 'upload'
      ? 'The image already has its content. To use another disk, add another image.'
      : 'The image was not added with source "upload". Add an image with source "upload".'
  throw new ApiError('conflict', detail)
}

/** Deletes an image and returns its row. Throws `not_found`, `conflict` for the catalogue, `in_use` if instances use it. */
export async function deleteImage(
  tx: Transaction,
  outbox: Outbox,
  { environment_id }: Principal,
  idOrName: string,
  ifMatch: string | undefined,
): Promise<ImageRow> {
  const seen = await readImage(tx, environment_id, idOrName)
  // A transaction that creates an instance locks the row; this statement waits for it.
  const [row] = seen ? await tx<ImageRow[]>`select * from images where id = ${seen.id} for update` : []
  if (!row || row.wanted_gone) throw notFound('image', idOrName)
  checkIfMatch(ifMatch, showImage(row))
  if (row.environment_id === null) {
    throw new ApiError('conflict', 'The image belongs to the installation and cannot be deleted.')
  }
  const [used] = await tx<{ count: number }[]>`
    select count(*) from instances where image_id = ${row.id} and status <> 'terminated'`
  if (used!.count > 0) {
    throw new ApiError('in_use', `${used!.count} instances were created from the image. Terminate them first.`)
  }
  // The row is purged when its files are deleted and no instance refers to it. Its name is free immediately.
  await tx`update images set wanted_gone = true, name = id where id = ${row.id}`
  outbox.use.images -= 1
  outbox.wakes.push({ kind: 'image', id: row.id, environment_id })
  return row
}

/** Deletes all images of an environment that no instance uses, because its project is being deleted, and wakes idle keys. */
export async function deleteAllImages(tx: Transaction, outbox: Outbox, environmentId: string): Promise<void> {
  const deleted = await tx`
    update images set wanted_gone = true, name = id where environment_id = ${environmentId} and not wanted_gone`
  outbox.use.images -= deleted.count
  const idle = await tx<{ id: string }[]>`
    select id from images r where environment_id = ${environmentId} and ${isIdle(tx, 'image')}`
  for (const { id } of idle) outbox.wakes.push({ kind: 'image', id, environment_id: environmentId })
}

/** Purges the row of a deleted image; returns false while an instance refers to it. */
export async function purgeImage(tx: Transaction, id: string): Promise<boolean> {
  const purged = await tx`
    delete from images where id = ${id} and wanted_gone
      and not exists (select from instances where image_id = ${id})`
  return purged.count > 0
}

/**
 * Releases what uploads have reserved that a stop or a crash has interrupted; called at start, by the owner of the tables.
 */
export async function releaseInterruptedUploads(query: Query): Promise<void> {
  await query`
    with interrupted as (
      select id, environment_id, reserved_bytes from images
      where reserved_bytes > 0 and observed_import = wanted_import and observed_state in ('absent', 'failed')
        and not wanted_gone for no key update
    ), released as (
      update images i set reserved_bytes = 0 from interrupted where i.id = interrupted.id
    )
    update environment_heads h set used_image_bytes = h.used_image_bytes - each.bytes
    from (select environment_id, sum(reserved_bytes) as bytes from interrupted group by environment_id) as each
    where h.environment_id = each.environment_id`
}

/** Writes the observed state of the import that `row` wants. `reserveBytes` writes what the image occupies. */
export async function recordImport(
  tx: Transaction,
  row: Pick<ImageRow, 'id' | 'wanted_import'>,
  observed: {
    state: ImageRow['observed_state']
    progress: ImageProgress | null
    error: ImageRow['observed_error']
    manifest: ImageRow['observed_manifest']
  },
): Promise<void> {
  await tx`
    update images set observed_import = ${row.wanted_import}, observed_state = ${observed.state},
      observed_progress = ${observed.progress && tx.json(observed.progress)},
      observed_error = ${observed.error && tx.json(observed.error)},
      observed_manifest = ${observed.manifest && tx.json(observed.manifest)}
    where id = ${row.id}`
}

/** Updates the rows of the catalogue to this release; called at start. Imported images stay. */
export async function syncCatalogue(query: Query, images: CatalogImage[]): Promise<void> {
  for (const { id, name, description, source } of images) {
    await query`
      insert into images (id, name, description, source, ready_signal, ssh_user, created_at)
      values (${id}, ${name}, ${description}, ${query.json(source)}, 'guest', 'root', now())
      on conflict (id) do update set name = excluded.name, description = excluded.description,
        source = excluded.source`
  }
}

/** Whether an instance can use an image now. */
export type Availability = {
  present: boolean
  error: { code: string; message: string } | null
  machine: MachineImage
}

/**
 * Returns whether a machine can use an image. In a test environment every image is present, because simulated machines
 * need no image file. The error of a failed import is returned until the import is retried.
 */
export async function availability(query: Query, imageId: string, mode: 'live' | 'test'): Promise<Availability> {
  const row = await loadImage(query, imageId)
  if (!row) throw new Error(`image ${imageId} is missing`)
  const { id, ready_signal, observed_manifest: manifest } = row
  return {
    present: mode === 'test' || row.observed_state === 'present',
    error: row.observed_state === 'failed' && row.observed_import === row.wanted_import ? row.observed_error : null,
    machine: { id, folder: id, ready_signal, boot: manifest?.boot ?? null, seed: manifest?.seed ?? 'nocloud' },
  }
}
