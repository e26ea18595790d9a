import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import type { Config } from '../config.ts'
import { ApiError } from '../lib/errors.ts'

/** Size of the reservations of a body whose length is not announced. */
const STEP_BYTES = 64 * 2 ** 20

/** A received request body, in a temporary file. */
export type Upload = {
  /** Moves the file to the importer. */
  put(): void
  /** Removes the file unless it was moved. */
  discard(): void
}

export type Incoming = {
  image_id: string
  request_id: string
  body: Readable
  /** The announced length; null if there is none. */
  length: number | null
  /** Reserves this many bytes more on the disk of the host. Throws InsufficientCapacity. */
  reserve(bytes: number): Promise<void>
}

/**
 * Writes a request body of at most `config.image_max_bytes` to disk, each part after its bytes are reserved. Throws
 * `payload_too_large`, InsufficientCapacity, and the error of a full disk.
 */
export async function receiveUpload(
  config: Pick<Config, 'data_dir' | 'image_max_bytes'>,
  incoming: Incoming,
): Promise<Upload> {
  const folder = uploadsFolder(config)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const name = join(folder, `${incoming.image_id}.${incoming.request_id}.incoming`)
  const discard = () => rmSync(name, { force: true })
  try {
    const file = await open(name, 'wx', 0o600)
    try {
      await write(file, incoming, config.image_max_bytes)
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    discard()
    throw error
  }
  return { put: () => renameSync(name, join(folder, `${incoming.image_id}.part`)), discard }
}

/** Reads a request body to its end and keeps nothing. Throws `payload_too_large`. */
export async function discardUpload(config: Pick<Config, 'image_max_bytes'>, body: Readable): Promise<void> {
  await each(body, config.image_max_bytes, async () => {})
}

/** Removes the files of interrupted uploads; called at start. */
export function removeIncomplete(config: Pick<Config, 'data_dir'>): void {
  const folder = uploadsFolder(config)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  for (const name of readdirSync(folder)) if (name.endsWith('.incoming')) rmSync(join(folder, name), { force: true })
}

function uploadsFolder(config: Pick<Config, 'data_dir'>): string {
  return join(config.data_dir, 'uploads')
}

async function write(file: FileHandle, { body, length, reserve }: Incoming, limit: number): Promise<void> {
  if (length !== null && length > limit) throw tooLarge(limit)
  let reserved = length ?? 0
  if (reserved > 0) await reserve(reserved)
  await each(body, limit, async (chunk, bytes) => {
    if (bytes > reserved) {
      const more = Math.min(Math.max(STEP_BYTES, bytes - reserved), limit - reserved)
      await reserve(more)
      reserved += more
    }
    await file.writeFile(chunk)
  })
}

/** Calls `use` with each chunk and the number of bytes up to its end. */
async function each(body: Readable, limit: number, use: (chunk: Buffer, bytes: number) => Promise<void>) {
  let bytes = 0
  // The body stays open when this ends early, because its socket carries the response.
  for await (const chunk of body.iterator({ destroyOnReturn: false })) {
    bytes += chunk.length
    if (bytes > limit) throw tooLarge(limit)
    await use(chunk, bytes)
  }
}

function tooLarge(limit: number): ApiError {
  return new ApiError('payload_too_large', `An image may have at most ${limit} bytes.`, {
    headers: { connection: 'close' },
  })
}
