/**
 * Rows that wait to be written: a bounded queue with two classes. When it is full, reads make room for what must be
 * kept; only when there is nothing but that left is such a row refused, and the caller told.
 */
export type Queue<T> = {
  /** False: there was no room. A kept row may push out a read, which is counted. */
  add(row: T, kept: boolean): boolean
  /** The next rows, at most `max`; the kept ones first. */
  take(max: number): T[]
  size(): number
  /** Reads left out or pushed out, and kept rows refused, since the beginning. */
  dropped(): { reads: number; kept: number }
}

export function createQueue<T>(capacity: number): Queue<T> {
  let kept: T[] = []
  let reads: T[] = []
  const dropped = { reads: 0, kept: 0 }
  return {
    add(row, isKept) {
      const full = kept.length + reads.length >= capacity
      if (!isKept) {
        if (full) dropped.reads++
        else reads.push(row)
        return !full
      }
      if (full && reads.pop() === undefined) {
        dropped.kept++
        return false
      }
      if (full) dropped.reads++
      kept.push(row)
      return true
    },
    take(max) {
      const first = kept.slice(0, max)
      const rest = reads.slice(0, max - first.length)
      kept = kept.slice(first.length)
      reads = reads.slice(rest.length)
      return first.concat(rest)
    },
    size: () => kept.length + reads.length,
    dropped: () => ({ ...dropped }),
  }
}
