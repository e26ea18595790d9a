/**
 * Does the guest still run its programs? Its agent writes a line to the ready port every ten seconds, `alive`, and `bye`
 * when it is ended in order, so that a guest which shuts down or reboots by itself is not missed. The lines end up in a
 * file, which is bounded and needs nobody who reads it. A guest whose last line is `alive` and who is then silent for
 * more than three of its intervals hangs. One that never wrote such a line (an image without the agent) never does.
 *
 * Silence is what we have watched ourselves: it begins at our first look, whatever the time of the file, and a tick that
 * comes late because the host slept or we were stopped counts as a short one. So nobody is taken for hung because we
 * did not look.
 */
import { readEnd } from './console-log.ts'

/** Three intervals of ten seconds, and some time besides. */
export const HUNG_AFTER_MS = 35_000
/** How often the file is looked at. */
export const TICK_MS = 5_000

/** What the file shows: whether its last line is `alive`, a mark that changes with each line, and when it was written. */
export type HeartbeatLine = { alive: boolean; mark: string; at: Date }

/** What is remembered of a run between ticks. */
export type Heartbeat = { mark: string; silent_ms: number }

export const NO_HEARTBEAT: Heartbeat = { mark: '', silent_ms: 0 }

/** Reads the end of the file; null when it is not there. */
export async function readHeartbeatFile(path: string): Promise<HeartbeatLine | null> {
  const end = await readEnd(path, 16)
  if (!end) return null
  return { alive: /alive\r?\n$/.test(end.text), mark: `${end.mtime.getTime()} ${end.size}`, at: end.mtime }
}

/** @param elapsed_ms since the last tick, by a clock that nobody sets */
export function updateHeartbeat(before: Heartbeat, sign: HeartbeatLine, elapsed_ms: number): Heartbeat {
  if (!sign.alive || sign.mark !== before.mark) return { mark: sign.mark, silent_ms: 0 }
  return { mark: sign.mark, silent_ms: before.silent_ms + Math.min(elapsed_ms, 2 * TICK_MS) }
}

export const isHung = ({ silent_ms }: Heartbeat): boolean => silent_ms >= HUNG_AFTER_MS

/** After a reset nothing is expected before the next line: what boots now may have no agent, or take its time. */
export const afterReset = ({ mark }: Heartbeat): Heartbeat => ({ mark, silent_ms: Number.NEGATIVE_INFINITY })

/** After a pause the silence begins anew. */
export const afterPause = ({ mark }: Heartbeat): Heartbeat => ({ mark, silent_ms: 0 })
