/**
 * What a guest writes to its console and to its ready port. QEMU keeps it in buffers of fixed size, which overwrite their
 * oldest bytes, so a guest cannot fill the disk of the host, whether or not the control plane runs. The control plane
 * reads the buffers by QMP, often enough for any console that a person reads, and appends to files of bounded size.
 *
 * Reading empties a buffer. A control plane that is killed in the middle loses at most one part of a console. It loses no
 * state: a guest that was ready writes heartbeats, and each of them means that it is ready.
 */

import { KeyedLock } from '../../lib/keyed-lock.ts'
import type { Log } from '../../lib/log.ts'
import { BUFFER_BYTES } from './command.ts'
import { appendBounded } from './console-log.ts'
import type { MachinePaths } from './machine-files.ts'
import { type QmpClient, QmpCommandError } from './qmp.ts'

const PART_BYTES = 64 * 1024
const READ_MS = 1000
const MIB = 2 ** 20

/** The first bytes of the ready file are kept, because they show that the guest was ready. */
const BOUNDS = {
  console: { max_bytes: 8 * MIB, keep_bytes: 4 * MIB },
  ready: { max_bytes: PART_BYTES, keep_bytes: 4096, head_bytes: 256 },
}

export class Output {
  readonly #log: Log
  readonly #lock = new KeyedLock()

  constructor(log: Log) {
    this.#log = log
  }

  /** Appends what the guest has written to the files of its machine. Rejects with QmpConnectionError. */
  collect(client: QmpClient, paths: MachinePaths): Promise<void> {
    return this.#lock.run(paths.directory, async () => {
      for (const buffer of ['ready', 'console'] as const) {
        const data = await readBuffer(client, buffer)
        await appendBounded(paths[buffer], data, BOUNDS[buffer]).catch((error) =>
          this.#log.warn({ file: paths[buffer], error: String(error) }, 'output of a guest cannot be stored'),
        )
      }
    })
  }
}

/** Empties a buffer. A guest that writes faster than this reads loses what it wrote first. */
async function readBuffer(client: QmpClient, device: keyof typeof BUFFER_BYTES): Promise<Buffer> {
  const parts: Buffer[] = []
  try {
    for (let bytes = 0; bytes < BUFFER_BYTES[device]; bytes += PART_BYTES) {
      const reply = await client.execute('ringbuf-read', { device, size: PART_BYTES, format: 'base64' }, READ_MS)
      const part = Buffer.from(typeof reply === 'string' ? reply : '', 'base64')
      parts.push(part)
      if (part.length < PART_BYTES) break
    }
  } catch (error) {
    // A machine of an older release writes to the files itself.
    if (!(error instanceof QmpCommandError)) throw error
  }
  return Buffer.concat(parts)
}
