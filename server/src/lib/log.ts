import { type DestinationStream, pino } from 'pino'
import pretty from 'pino-pretty'

export type Log = {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
  child(fields: object): Log
}

/** What JSON leaves as it is and a terminal obeys, or takes for the end of a line: DEL, C1, line separators. */
const UNESCAPED = /[\u007f-\u009f\u2028\u2029]/g
const escaped = (text: string): string =>
  text.replace(UNESCAPED, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`)

/**
 * One JSON line per record on stderr (or where `destination` says); readable lines on a terminal. No control character of
 * anybody's text reaches either, so that a record stays a line and nobody writes to the operator's terminal.
 */
export function createLog(options: { level: string; pretty: boolean; destination?: DestinationStream }): Log {
  const base = { level: options.level, base: undefined, redact: ['authorization', '*.authorization', '*.user_data'] }
  if (!options.pretty) {
    return pino({ ...base, hooks: { streamWrite: escaped } }, options.destination ?? pino.destination(2))
  }
  // The printer escapes what JSON does; the rest is escaped before it.
  const formatters = { log: (fields: object) => Object.fromEntries(Object.entries(fields).map(plain)) }
  const destination = options.destination ?? 2
  return pino(
    { ...base, formatters },
    pretty({ colorize: true, ignore: 'pid,hostname', sync: true, destination: destination as never }),
  )
}

function plain([name, value]: [string, unknown]): [string, unknown] {
  return [name, typeof value === 'string' ? escaped(value) : value]
}

/** For tests and tools that have nobody to tell. */
export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {}, child: () => silentLog }
