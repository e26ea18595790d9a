import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'

/** The last bytes of a file; empty if it does not exist. Follows no link. */
export async function readTail(path: string, bytes: number): Promise<Buffer> {
  const result = await withFile(path, constants.O_RDONLY, async (file, size) => tail(file, size, bytes))
  return result ?? Buffer.alloc(0)
}

/** The first bytes of a file as text; empty if it does not exist. */
export async function readHead(path: string, bytes: number): Promise<string> {
  const result = await withFile(path, constants.O_RDONLY, (file) => file.read(Buffer.alloc(bytes), 0, bytes, 0))
  return result ? result.buffer.subarray(0, result.bytesRead).toString('latin1') : ''
}

/** The last bytes of a file as text, its size and its modification time; null if it does not exist. */
export async function readEnd(
  path: string,
  bytes: number,
): Promise<{ text: string; size: number; mtime: Date } | null> {
  return withFile(path, constants.O_RDONLY, async (file, size) => {
    const { mtime } = await file.stat()
    return { text: (await tail(file, size, bytes)).toString('latin1'), size, mtime }
  })
}

export type FileBounds = {
  /** A file that would exceed this size is truncated. */
  max_bytes: number
  /** How much of its end is kept. */
  keep_bytes: number
  /** How much of its beginning is kept, in whole lines. */
  head_bytes?: number
}

/**
 * Appends to a file and keeps it within its bounds. It is truncated in place, because the QEMU of an older release writes
 * to it, too.
 */
export async function appendBounded(path: string, data: Buffer, bounds: FileBounds): Promise<void> {
  const flags = constants.O_RDWR | constants.O_APPEND | (data.length > 0 ? constants.O_CREAT : 0)
  await withFile(path, flags, async (file, size) => {
    if (size + data.length <= bounds.max_bytes) return file.writeFile(data)
    const { head_bytes = 0, keep_bytes } = bounds
    const { buffer, bytesRead } = await file.read(Buffer.alloc(head_bytes), 0, head_bytes, 0)
    const start = buffer.subarray(0, bytesRead)
    const head = start.subarray(0, start.lastIndexOf(10) + 1)
    const end = Buffer.concat([await tail(file, size, keep_bytes), data]).subarray(-keep_bytes)
    await file.truncate(0)
    await file.writeFile(Buffer.concat([head, end.subarray(end.indexOf(10) + 1)]))
  })
}

async function tail(file: FileHandle, size: number, bytes: number): Promise<Buffer> {
  const length = Math.min(size, bytes)
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, size - length)
  return buffer.subarray(0, bytesRead)
}

async function withFile<T>(path: string, flags: number, use: (file: FileHandle, size: number) => Promise<T>) {
  let file: FileHandle
  try {
    file = await open(path, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK, 0o600)
  } catch (error) {
    if (['ENOENT', 'ELOOP'].includes((error as NodeJS.ErrnoException).code ?? '')) return null
    throw error
  }
  try {
    return await use(file, (await file.stat()).size)
  } finally {
    await file.close()
  }
}
