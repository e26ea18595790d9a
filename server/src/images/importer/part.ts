/**
 * The partial download: its bytes, their running checksum and the validators with which it can be resumed.
 *
 * The importer may be killed at any line. Therefore `restart` truncates the file before it writes the new validators: old
 * bytes never have new validators.
 */
import { createHash, type Hash } from 'node:crypto'
import { readFileSync, rmSync } from 'node:fs'
import { type FileHandle, open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'
import Type from 'typebox'
import { Value } from 'typebox/value'
import { asImportError } from './errors.ts'
import { syncDirectory, writeAtomically } from './files.ts'
import type { Meta } from './response.ts'

const metaSchema = Type.Object({
  etag: Type.Union([Type.String(), Type.Null()]),
  last_modified: Type.Union([Type.String(), Type.Null()]),
  length: Type.Union([Type.Integer({ minimum: 0 }), Type.Null()]),
})

const nothing: Meta = { etag: null, last_modified: null, length: null }

export type Part = {
  readonly offset: number
  readonly meta: Meta
  restart: (meta: Meta) => Promise<void>
  append: (chunk: Uint8Array) => Promise<void>
  /** The hexadecimal SHA-256 of all received bytes. */
  sha256: () => string
  /** Syncs the file to disk and renames it. */
  moveTo: (path: string) => Promise<void>
  remove: () => Promise<void>
  close: () => Promise<void>
}

/** Opens the partial download of an earlier run, or a new one. `onHashed` receives the number of bytes read again. */
export async function openPart(
  paths: { part: string; meta: string },
  onHashed: (bytes: number) => void,
): Promise<Part> {
  const file = await open(paths.part, 'a+', 0o600)
  await file.close()
  const handle = await open(paths.part, 'r+')
  let meta = readMeta(paths.meta)
  let hash = createHash('sha256')
  let offset = meta === nothing ? 0 : await hashAll(handle, hash, onHashed)

  return {
    get offset() {
      return offset
    },
    get meta() {
      return meta
    },
    restart: (next) =>
      onDisk(async () => {
        await handle.truncate(0)
        hash = createHash('sha256')
        offset = 0
        meta = next
        writeAtomically(paths.meta, JSON.stringify(meta), { durable: false })
      }),
    append: (chunk) =>
      onDisk(async () => {
        for (let done = 0; done < chunk.length; ) {
          done += (await handle.write(chunk, done, chunk.length - done, offset + done)).bytesWritten
        }
        hash.update(chunk)
        offset += chunk.length
      }),
    sha256: () => hash.copy().digest('hex'),
    moveTo: (path) =>
      onDisk(async () => {
        await handle.truncate(offset)
        await handle.sync()
        await rename(paths.part, path)
        rmSync(paths.meta, { force: true })
        syncDirectory(dirname(path))
      }),
    remove: () =>
      onDisk(async () => {
        rmSync(paths.part, { force: true })
        rmSync(paths.meta, { force: true })
      }),
    close: () => handle.close(),
  }
}

function readMeta(path: string): Meta {
  try {
    return Value.Parse(metaSchema, JSON.parse(readFileSync(path, 'utf8')))
  } catch {
    return nothing
  }
}

/** Adds a whole file to a hash and returns its length. */
export async function hashAll(handle: FileHandle, hash: Hash, onHashed: (bytes: number) => void): Promise<number> {
  const buffer = Buffer.allocUnsafe(1 << 20)
  for (let offset = 0; ; ) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, offset)
    if (bytesRead === 0) return offset
    hash.update(buffer.subarray(0, bytesRead))
    offset += bytesRead
    onHashed(offset)
  }
}

/** Converts errors of the local disk, so that they are not retried as errors of the source. */
async function onDisk(work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch (error) {
    throw asImportError(error)
  }
}
