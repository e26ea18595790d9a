import type { Notifier } from '../db/notify.ts'

/** Reads on behalf of whoever asks the same at the same time. */
export type SharedReads<T> = (environmentId: string, question: string, read: () => Promise<T>) => Promise<T>

/**
 * Many streams of an environment wait at the same place and are woken together: one of them reads for all.
 *
 * Whoever registers with the notifier and then joins a read that began earlier must not miss what was committed in
 * between. So a read is joined only as long as this process has heard of no change since it began: of a change that
 * comes later, the registration tells.
 */
export function createSharedReads<T>(notifier: Pick<Notifier, 'onChange'>): SharedReads<T> {
  const reads = new Map<string, Map<string, Promise<T>>>()
  notifier.onChange((id) => {
    if (id === null) reads.clear()
    else reads.delete(id)
  })

  return (environmentId, question, read) => {
    const own = reads.get(environmentId) ?? new Map<string, Promise<T>>()
    const begun = own.get(question)
    if (begun) return begun
    reads.set(environmentId, own)
    const reading = read().finally(() => {
      own.delete(question)
      if (own.size === 0 && reads.get(environmentId) === own) reads.delete(environmentId)
    })
    own.set(question, reading)
    return reading
  }
}
