/**
 * The messages of QEMU, on its standard output and error. A guest can cause them without limit (a virtio device that it
 * drives wrongly), so they go to a FIFO that QEMU holds open for reading and writing, without blocking: its buffer of
 * 64 KiB keeps them whether or not the control plane runs, and what exceeds it is lost. The control plane moves them to a
 * file of bounded size.
 */
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { meansGone } from '../../lib/processes.ts'
import { appendBounded, readTail } from './console-log.ts'
import type { MachinePaths } from './machine-files.ts'
import { runProgram } from './run-program.ts'

const BUFFER_BYTES = 64 * 1024
const LOG_BOUNDS = { max_bytes: 2 ** 20, keep_bytes: 2 ** 19 }

export class Messages {
  readonly #file: FileHandle
  readonly #log: string

  private constructor(file: FileHandle, log: string) {
    this.#file = file
    this.#log = log
  }

  /** Creates the FIFO of a machine that starts. */
  static async create({ messages, log }: MachinePaths): Promise<Messages> {
    await runProgram(['mkfifo', '-m', '600', messages])
    return new Messages(await open(messages, constants.O_RDWR | constants.O_NONBLOCK), log)
  }

  /** Opens the FIFO of a machine that runs; null if it has none. */
  static async open({ messages, log }: MachinePaths): Promise<Messages | null> {
    try {
      return new Messages(await open(messages, constants.O_RDONLY | constants.O_NONBLOCK), log)
    } catch (error) {
      if (meansGone(error)) return null
      throw error
    }
  }

  /** The descriptor for QEMU. */
  get fd(): number {
    return this.#file.fd
  }

  /** Moves the messages to the log of the machine, and returns the end of the log. */
  async collect(): Promise<string> {
    const { buffer, bytesRead } = await this.#file
      .read(Buffer.alloc(BUFFER_BYTES), 0, BUFFER_BYTES, null)
      .catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'EAGAIN') return { buffer: Buffer.alloc(0), bytesRead: 0 }
        throw error
      })
    await appendBounded(this.#log, buffer.subarray(0, bytesRead), LOG_BOUNDS)
    return (await readTail(this.#log, 2000)).toString('utf8')
  }

  async close(): Promise<void> {
    await this.#file.close()
  }
}
