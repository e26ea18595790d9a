/**
 * A bounded queue of rows to write, in two classes. When it is full, a kept row displaces a read; if there are no reads,
 * the kept row is rejected.
 */
export type Queue<T> = {
  /** False if the queue was full. A kept row can displace a read, which is counted. */
  add(row: T, kept: boolean): boolean
  /** Removes and returns the next rows, at most `max`, kept rows first. */
  take(max: number): T[]
  size(): number
  /** Reads rejected or displaced, and kept rows rejected, since the start. */
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
