import { pino } from 'pino'
import pretty from 'pino-pretty'

export type Log = {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  child(fields: object): Log
}

/** One JSON line per record, on stderr if not told otherwise; readable lines on a terminal. JSON escapes control characters, so a record stays a line. */
export function createLog(
  options: { level: string; pretty: boolean },
  stream: { write(line: string): void } = pino.destination(2),
): Log {
  const base = { level: options.level, base: undefined, redact: ['authorization', '*.authorization', '*.user_data'] }
  if (!options.pretty) return pino(base, stream)
  return pino(base, pretty({ colorize: true, ignore: 'pid,hostname', sync: true, destination: 2 }))
}

/** For tests and tools that have nobody to tell. */
export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => silentLog }
