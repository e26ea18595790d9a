/**
 * Bytes of images on the disk of the host. They are reserved before they are written: an upload before its content, an
 * import before its download and again before its conversion, when it knows the size. So a project stays within its quota
 * `image_bytes`, and images leave the space that PostgreSQL and running guests need, whatever a client or a file claims.
 */
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import type { Outbox } from '../events/outbox.ts'
import { CapacityExhausted } from '../lib/insufficient-capacity.ts'
import type { ImageRow } from './row.ts'

/** Space that images leave free. */
const HOST_RESERVE_BYTES = 512 * 2 ** 20
const MIB = 2 ** 20

/** The image whose reservation changes; locked by the transaction. */
type Reserved = Pick<ImageRow, 'id' | 'environment_id' | 'reserved_bytes'>

/**
 * Changes the reservation of an image, and with it the usage of its project; images of the catalogue belong to none.
 * Throws CapacityExhausted if the host has too little space; the transaction ends with QuotaExceeded beyond the quota.
 */
export async function reserveBytes(
  tx: Transaction,
  outbox: Outbox,
  deps: Pick<Deps, 'imageSpaceBytes'>,
  row: Reserved,
  bytes: number,
): Promise<void> {
  const more = bytes - row.reserved_bytes
  if (more > 0) await requireSpace(tx, deps, more)
  await store(tx, outbox, row, bytes)
}

/**
 * Sets what an image occupies, now that it is written or removed. The usage of a project never rises here, so that a quota
 * cannot keep a finished import from being recorded.
 */
export async function settleBytes(tx: Transaction, outbox: Outbox, row: Reserved, bytes: number): Promise<void> {
  await store(tx, outbox, row, row.environment_id === null ? bytes : Math.min(bytes, row.reserved_bytes))
}

async function store(tx: Transaction, outbox: Outbox, row: Reserved, bytes: number): Promise<void> {
  if (row.environment_id !== null) outbox.use.image_bytes += bytes - row.reserved_bytes
  await tx`update images set reserved_bytes = ${bytes} where id = ${row.id}`
}

/** One reservation at a time: the sum is read under a lock until the transaction ends. */
async function requireSpace(tx: Transaction, deps: Pick<Deps, 'imageSpaceBytes'>, more: number): Promise<void> {
  await tx`select pg_advisory_xact_lock(hashtextextended('image bytes', 0))`
  const [reserved] = await tx<{ bytes: number }[]>`select reserved_image_bytes() as bytes`
  const left = deps.imageSpaceBytes() - reserved!.bytes - HOST_RESERVE_BYTES
  if (more <= left) return
  const detail = `The disk of the host has ${mib(Math.max(0, left))} left for images, and ${mib(more)} more are needed. Delete an image, free space on the host, or use a smaller image, then retry.`
  const extensions = { scope: 'host', resource: 'disk_bytes', retryable: true, alternatives: [] }
  throw new CapacityExhausted(detail, extensions)
}

const mib = (bytes: number) => `${Math.ceil(bytes / MIB)} MiB`
