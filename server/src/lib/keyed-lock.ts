/** Runs functions with the same key in order, functions with different keys concurrently. */
export class KeyedLock {
  readonly #tails = new Map<string, Promise<unknown>>()

  run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const result = (this.#tails.get(key) ?? Promise.resolve()).then(work)
    const tail = result.catch(() => {})
    this.#tails.set(key, tail)
    tail.then(() => this.#tails.get(key) === tail && this.#tails.delete(key))
    return result
  }
}
