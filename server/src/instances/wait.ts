import type { IncomingMessage } from 'node:http'
import type { Deps } from '../deps.ts'
import { detachAbort } from '../http/deadlines.ts'
import type { InstanceRow, Status } from './row.ts'
import { MOVES } from './status.ts'
import { find } from './store.ts'

/**
 * Waits until the instance has one of the statuses, until none of them can be reached any more, or until the timeout.
 * Ends early when the client disconnects or shutdown begins. Holds no database connection while it waits. Returns the
 * current row; null when there is none.
 */
export async function waitFor(
  deps: Pick<Deps, 'sql' | 'clock' | 'notifier' | 'stopping'>,
  environmentId: string,
  id: string,
  statuses: string[],
  timeoutSeconds: number,
  request: IncomingMessage,
): Promise<InstanceRow | null> {
  const deadline = deps.clock.monotonic() + timeoutSeconds * 1000
  const { signal, done } = detachAbort(request, deps.stopping)
  try {
    for (;;) {
      const left = deadline - deps.clock.monotonic()
      const change = deps.notifier.nextChange(id, left, signal)
      const row = await find(deps.sql.as(environmentId), environmentId, id)
      const isSettled =
        !row || statuses.includes(row.status) || row.status === 'failed' || !reachable(row.status, statuses)
      if (isSettled || left <= 0) return row
      await change
      // The row is as new as the last notification. At shutdown, thousands of long polls end without a query.
      if (signal.aborted) return row
    }
  } finally {
    done()
  }
}

/** Whether any of the statuses can still be reached from this one. */
function reachable(from: Status, statuses: string[]): boolean {
  const seen = new Set<Status>([from])
  for (const status of seen) for (const next of MOVES[status]) seen.add(next)
  return statuses.some((status) => seen.has(status as Status))
}
