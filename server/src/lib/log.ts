import { writeSync } from 'node:fs'
import { type DestinationStream, pino } from 'pino'
import pretty from 'pino-pretty'

export type Log = {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  child(fields: object): Log
}

/** A pipe whose reader is slow accepts nothing for a while. */
const RETRY_MS = 5
const MAX_TRIES = 100
const NEVER = new Int32Array(new SharedArrayBuffer(4))

/** Control characters and line separators that JSON does not escape: DEL, C1, U+2028, U+2029. */
const UNESCAPED = /[\u007f-\u009f\u2028\u2029]/g
const escaped = (text: string): string =>
  text.replace(UNESCAPED, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`)

/**
 * Writes one JSON line per record to stderr (or `destination`); formatted lines on a terminal. Control characters are
 * escaped, so that a record is always one line and logged text cannot control the operator's terminal.
 */
export function createLog(options: { level: string; pretty: boolean; destination?: DestinationStream }): Log {
  const base = { level: options.level, base: undefined, redact: ['authorization', '*.authorization', '*.user_data'] }
  if (!options.pretty) {
    return pino({ ...base, hooks: { streamWrite: escaped } }, options.destination ?? standardError())
  }
  // pino-pretty escapes what JSON escapes; the other characters are escaped before it.
  const formatters = { log: (fields: object) => Object.fromEntries(Object.entries(fields).map(plain)) }
  const destination = options.destination ?? 2
  return pino(
    { ...base, formatters },
    pretty({ colorize: true, ignore: 'pid,hostname', sync: true, destination: destination as never }),
  )
}

/**
 * Writes at once. A record that cannot be written, because the disk is full, the reader has ended or does not read, is
 * dropped: pino's own destination ends the process then, or keeps the records and never exits.
 */
function standardError(): DestinationStream {
  return {
    write(record) {
      let rest = Buffer.from(record)
      for (let tries = 0; rest.length > 0 && tries < MAX_TRIES; tries++) {
        try {
          rest = rest.subarray(writeSync(2, rest))
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return
          Atomics.wait(NEVER, 0, 0, RETRY_MS)
        }
      }
    },
  }
}

function plain([name, value]: [string, unknown]): [string, unknown] {
  return [name, typeof value === 'string' ? escaped(value) : value]
}

/** Discards everything, for tests and tools. */
export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => silentLog }
