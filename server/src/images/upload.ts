import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import type { Config } from '../config.ts'
import { ApiError } from '../lib/errors.ts'

/** A received request body, in a temporary file. */
export type Upload = {
  /** Moves the file to the importer. */
  put(): void
  /** Removes the file unless it was moved. */
  discard(): void
}

/** Writes a request body of at most `config.image_max_bytes` to disk. Throws `payload_too_large`, `capacity_exhausted`. */
export async function receiveUpload(
  config: Pick<Config, 'data_dir' | 'image_max_bytes'>,
  imageId: string,
  requestId: string,
  body: Readable,
): Promise<Upload> {
  const folder = uploadsFolder(config)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const file = join(folder, `${imageId}.${requestId}.incoming`)
  const discard = () => rmSync(file, { force: true })
  try {
    await write(file, body, config.image_max_bytes)
  } catch (error) {
    discard()
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw error
    throw new ApiError('capacity_exhausted', 'The disk of the host is full. Free disk space on the host, then retry.', {
      extensions: { scope: 'host', resource: 'disk_bytes', retryable: true, alternatives: [] },
      cause: error,
    })
  }
  return { put: () => renameSync(file, join(folder, `${imageId}.part`)), discard }
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

async function write(path: string, body: Readable, limit: number): Promise<void> {
  const file = await open(path, 'wx', 0o600)
  try {
    let bytes = 0
    // The body stays open when this ends early, because its socket carries the response.
    for await (const chunk of body.iterator({ destroyOnReturn: false })) {
      bytes += chunk.length
      if (bytes > limit) throw tooLarge(limit)
      await file.writeFile(chunk)
    }
    await file.sync()
  } finally {
    await file.close()
  }
}

function tooLarge(limit: number): ApiError {
  return new ApiError('payload_too_large', `An image may have at most ${limit} bytes.`, {
    headers: { connection: 'close' },
  })
}
