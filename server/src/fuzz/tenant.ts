/** One of the two tenants of a run, with what it has made so far. */
import { type Call, caller, type TestKey } from '../http/testing.ts'
import type { App } from '../http/types.ts'

/** `removed`: must be gone. `leaving`: was asked to go, and may be shown for a while. */
type Owned = { id: string; state: 'there' | 'removed' | 'leaving' }

export class Tenant {
  readonly key: string
  readonly environment_id: string
  readonly call: Call
  /** A text that only this tenant writes. */
  readonly canary: string
  /** Addresses of next pages. */
  readonly pages: string[] = []
  /** Secrets of the other tenant that this one was made to send. */
  readonly told = new Set<string>()
  private readonly owned = new Map<string, Owned[]>()

  constructor(app: App, { key, principal }: TestKey) {
    this.key = key
    this.environment_id = principal.environment_id
    const call = caller(app, key)
    // What is made for something else is there, too.
    this.call = async (...request) => {
      const answer = await call(...request)
      if (answer.status === 201 && answer.body.id) this.add(answer.body.id)
      return answer
    }
    this.canary = `canary-${principal.environment_id.slice(4)}`
  }

  add(id: string): void {
    const type = typeOf(id)
    const all = this.owned.get(type) ?? []
    this.owned.set(type, all)
    if (!all.some((one) => one.id === id)) all.push({ id, state: 'there' })
  }

  /** The n-th of this type in this state; null when there is none. */
  nth(type: string, state: Owned['state'], n: number): string | null {
    const some = (this.owned.get(type) ?? []).filter((one) => one.state === state)
    return some[n % some.length]?.id ?? null
  }

  stateOf(id: string): Owned['state'] | null {
    return this.owned.get(typeOf(id))?.find((one) => one.id === id)?.state ?? null
  }

  mark(id: string, state: Owned['state']): void {
    const one = this.owned.get(typeOf(id))?.find((owned) => owned.id === id)
    if (one) one.state = state
  }

  /** Everything that the other tenant must never read. */
  *secrets(): Generator<string> {
    yield this.canary
    yield this.environment_id
    for (const all of this.owned.values()) for (const { id } of all) yield id
  }
}

/** The prefix of an id. */
export const typeOf = (id: string): string => id.slice(0, id.indexOf('_'))
