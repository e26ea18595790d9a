import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'

/** A log that exceeds `max_bytes` is truncated to its last `keep_bytes`. */
const LOG_BOUNDS = { max_bytes: 8 * 1024 * 1024, keep_bytes: 4 * 1024 * 1024 }

/** The last bytes of a file; empty if it does not exist. Never follows a link, because QEMU's user can write the file. */
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

/**
 * Truncates a file that its writer has open in append mode. Lines that are written meanwhile may be lost or end up before
 * the kept part, which is acceptable for a flooded log.
 */
export async function boundFile(path: string, bounds = LOG_BOUNDS): Promise<void> {
  await withFile(path, constants.O_RDWR | constants.O_APPEND, async (file, size) => {
    if (size <= bounds.max_bytes) return
    const kept = await tail(file, size, bounds.keep_bytes)
    await file.truncate(0)
    await file.write(kept.subarray(kept.indexOf(10) + 1))
  })
}

/** Truncates a ready file, in which the guest writes a line per boot and per heartbeat, and keeps its first line. */
export async function boundReadyFile(path: string, maxBytes = 64 * 1024): Promise<void> {
  await withFile(path, constants.O_RDWR, async (file, size) => {
    if (size > maxBytes) await file.truncate(1024)
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
    file = await open(path, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK)
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
