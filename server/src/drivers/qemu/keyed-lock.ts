/** Runs functions with the same key one after the other, others at the same time. */
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
