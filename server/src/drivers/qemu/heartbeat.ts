/**
 * Detects guests that hang. The agent in a guest writes the line `alive` to the ready port every ten seconds, and `bye`
 * when it is stopped, so that a guest that shuts down or reboots is not reported. The lines are in the ready file, whose
 * size is bounded (output.ts). A guest hangs if its last line is `alive` and no line follows for more than three intervals.
 * A guest
 * without the agent is never reported.
 *
 * Only silence that the driver has observed counts: it starts at the first check, whatever the age of the file, and a
 * check that is late (the host or the control plane was suspended) counts as a short one.
 */
import { readEnd, readHead } from './console-log.ts'

/** Three intervals of ten seconds, and a margin. */
export const HUNG_AFTER_MS = 35_000
/** Poll interval of the file. */
export const TICK_MS = 5_000

/** The last line of the file: whether it is `alive`, a mark that changes with each line, and when it was written. */
export type HeartbeatLine = { alive: boolean; mark: string; at: Date }

/** The state of a run between two checks. */
export type Heartbeat = { mark: string; silent_ms: number }

export const NO_HEARTBEAT: Heartbeat = { mark: '', silent_ms: 0 }

/** Whether the guest of this run has signaled that it is ready. It sends no heartbeat before that. */
export async function hasSignaledReady(path: string): Promise<boolean> {
  return /^(ready [!-~]+|alive)\r?\n/m.test(await readHead(path, 256))
}

/** Reads the last line of the file; null if the file does not exist. */
export async function readHeartbeatFile(path: string): Promise<HeartbeatLine | null> {
  const end = await readEnd(path, 16)
  if (!end) return null
  return { alive: /alive\r?\n$/.test(end.text), mark: `${end.mtime.getTime()} ${end.size}`, at: end.mtime }
}

/** @param elapsed_ms since the last check, by a monotonic clock */
export function updateHeartbeat(before: Heartbeat, sign: HeartbeatLine, elapsed_ms: number): Heartbeat {
  if (!sign.alive || sign.mark !== before.mark) return { mark: sign.mark, silent_ms: 0 }
  return { mark: sign.mark, silent_ms: before.silent_ms + Math.min(elapsed_ms, 2 * TICK_MS) }
}

export const isHung = ({ silent_ms }: Heartbeat): boolean => silent_ms >= HUNG_AFTER_MS

/** After a reset no heartbeat is expected before the next line: the guest that boots may be slow or have no agent. */
export const afterReset = ({ mark }: Heartbeat): Heartbeat => ({ mark, silent_ms: Number.NEGATIVE_INFINITY })

/** After a pause the silence starts at zero. */
export const afterPause = ({ mark }: Heartbeat): Heartbeat => ({ mark, silent_ms: 0 })
