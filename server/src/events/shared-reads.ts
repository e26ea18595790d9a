import type { Notifier } from '../db/notify.ts'

/** Returns the result of `read`, or of a read with the same key that is in progress. */
export type SharedReads<T> = (environmentId: string, key: string, read: () => Promise<T>) => Promise<T>

/**
 * Shares reads among streams of an environment that wait for the same events and are woken together.
 *
 * A stream that registers with the notifier and then joins an earlier read must not miss what was committed in between.
 * So a stream joins a read only if no change was notified since the read started. The registration covers later changes.
 */
export function createSharedReads<T>(notifier: Pick<Notifier, 'onChange'>): SharedReads<T> {
  const reads = new Map<string, Map<string, Promise<T>>>()
  notifier.onChange((id) => {
    if (id === null) reads.clear()
    else reads.delete(id)
  })

  return (environmentId, key, read) => {
    const own = reads.get(environmentId) ?? new Map<string, Promise<T>>()
    const running = own.get(key)
    if (running) return running
    reads.set(environmentId, own)
    const reading = read().finally(() => {
      own.delete(key)
      if (own.size === 0 && reads.get(environmentId) === own) reads.delete(environmentId)
    })
    own.set(key, reading)
    return reading
  }
}
