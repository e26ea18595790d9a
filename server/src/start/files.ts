import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'

/** Writes a file atomically, readable only by its owner: after a crash it has the old or the new content. */
export function writePrivateFile(file: string, content: string): void {
  const temporary = `${file}.new`
  const handle = openSync(temporary, 'w', 0o600)
  writeFileSync(handle, content)
  fsyncSync(handle)
  closeSync(handle)
  renameSync(temporary, file)
  const folder = openSync(dirname(file), 'r')
  fsyncSync(folder)
  closeSync(folder)
}

/** The content of a file, or null if it does not exist. */
export function readFileOrNull(file: string): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}
