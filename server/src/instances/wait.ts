import type { IncomingMessage } from 'node:http'
import type { Deps } from '../deps.ts'
import type { InstanceRow, Status } from './row.ts'
import { MOVES } from './status.ts'
import { find } from './store.ts'

/**
 * Waits until the instance has one of the statuses, until none of them can be reached any more, or for the timeout.
 * Holds no database connection while it waits. Answers the row as it is then; null when there is none.
 */
export async function waitFor(
  deps: Pick<Deps, 'sql' | 'clock' | 'notifier'>,
  environmentId: string,
  id: string,
  statuses: string[],
  timeoutSeconds: number,
  request: IncomingMessage,
): Promise<InstanceRow | null> {
  const deadline = deps.clock.monotonic() + timeoutSeconds * 1000
  const gone = new AbortController()
  request.once('close', () => gone.abort())
  for (;;) {
    const left = deadline - deps.clock.monotonic()
    const change = deps.notifier.nextChange(id, left, gone.signal)
    const row = await find(deps.sql.as(environmentId), environmentId, id)
    const settled = !row || statuses.includes(row.status) || row.status === 'failed' || !reachable(row.status, statuses)
    if (settled || left <= 0 || gone.signal.aborted) return row
    await change
  }
}

/** Whether any of the statuses can still come after this one. */
function reachable(from: Status, statuses: string[]): boolean {
  const seen = new Set<Status>([from])
  for (const status of seen) for (const next of MOVES[status]) seen.add(next)
  return statuses.some((status) => seen.has(status as Status))
}
