import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import { environmentNow } from '../db/environment-now.ts'
import type { Deps } from '../deps.ts'
import { following } from '../http/follow.ts'
import { driverOf } from './driver-of.ts'
import type { InstanceRow } from './row.ts'

/** Maximum size of the log that is read. */
const LOG_BYTES = 1024 * 1024
const FOLLOW_INTERVAL_MS = 500

/** The console log of an instance: all of it, its last lines, or a stream. */
export async function readConsoleLog(
  deps: Deps,
  row: InstanceRow,
  options: { tail?: number; follow?: boolean },
  request: IncomingMessage,
): Promise<Buffer | Readable> {
  const driver = driverOf(deps, row)
  const read = async () => Buffer.from(await driver.consoleLog(await refOf(deps, row), LOG_BYTES))
  const first = lastLines(await read(), options.tail)
  return options.follow ? following(deps, request, (signal) => follow(deps, first, read, signal)) : first
}

async function refOf(deps: Deps, row: InstanceRow) {
  const now = await environmentNow(deps.sql.as(row.environment_id), row.environment_id)
  return { id: row.id, environment_id: row.environment_id, now }
}

async function* follow(deps: Deps, first: Buffer, read: () => Promise<Buffer>, signal: AbortSignal) {
  let before = await read()
  yield first
  while (!signal.aborted) {
    await deps.clock.sleep(FOLLOW_INTERVAL_MS, signal)
    const now = await read()
    const added = addition(before, now)
    before = now
    if (added.length > 0) yield added
  }
}

/** The new part of the log. The log is a sliding window, so the new part begins after the end of the old window. */
function addition(before: Buffer, now: Buffer): Buffer {
  if (now.subarray(0, before.length).equals(before)) return now.subarray(before.length)
  const mark = before.subarray(-4096)
  const at = mark.length > 0 ? now.lastIndexOf(mark) : -1
  return at < 0 ? now : now.subarray(at + mark.length)
}

function lastLines(log: Buffer, count: number | undefined): Buffer {
  if (count === undefined) return log
  let at = log.length - 1
  for (let lines = 0; at > 0; at--) if (log[at - 1] === 10 && ++lines === count) break
  return log.subarray(Math.max(0, at))
}
