import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import { environmentNow } from '../db/environment-now.ts'
import type { Deps } from '../deps.ts'
import { following } from '../http/follow.ts'
import { type ClosableResponse, createStreamLimit } from '../http/stream-limit.ts'
import type { Principal } from '../keys/principal.ts'
import { createConsoleReaders, lastLines } from './console-readers.ts'
import { driverOf } from './driver-of.ts'
import type { InstanceRow } from './row.ts'

/** Maximum size of the log that is read. */
const LOG_BYTES = 1024 * 1024

/** Streams of console logs. */
const CONSOLE_STREAMS = { per_key: 20, per_process: 500, hint: 'Close one first.' }

type Client = { principal: Principal; raw: IncomingMessage; response: ClosableResponse }

/** The console logs of the instances of a process. */
export function createConsoleLogs(deps: Deps) {
  const readers = createConsoleReaders(deps.clock)
  const countStream = createStreamLimit(CONSOLE_STREAMS)

  /** All of the log, its last lines, or a stream. Throws `rate_limited` for too many streams. */
  return async function readConsoleLog(
    row: InstanceRow,
    { tail, follow }: { tail?: number; follow?: boolean },
    { principal, raw, response }: Client,
  ): Promise<Buffer | Readable> {
    const from = async () => Buffer.from(await driverOf(deps, row).consoleLog(await refOf(deps, row), LOG_BYTES))
    if (!follow) return lastLines(await readers.read(row.id, from), tail)
    countStream(principal, response)
    return following(deps, raw, (signal) => readers.follow(row.id, from, tail, signal))
  }
}

async function refOf(deps: Deps, row: InstanceRow) {
  const now = await environmentNow(deps.sql.as(row.environment_id), row.environment_id)
  return { id: row.id, environment_id: row.environment_id, now }
}
