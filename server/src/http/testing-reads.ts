/** A value in which each read is counted: of a field, of an entry, and of the names of an object. */
export function counted<T extends object>(value: T): { value: T; count: () => number } {
  let count = 0
  const seen = new WeakMap<object, object>()
  function wrap<V>(inner: V): V {
    if (typeof inner !== 'object' || inner === null) return inner
    const known = seen.get(inner)
    if (known) return known as V
    const proxy = new Proxy(inner as object, {
      get(target, name) {
        count++
        return wrap(Reflect.get(target, name))
      },
      ownKeys(target) {
        count++
        return Reflect.ownKeys(target)
      },
    })
    seen.set(inner, proxy)
    return proxy as V
  }
  return { value: wrap(value), count: () => count }
}
