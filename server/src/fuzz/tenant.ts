/** One of the two tenants of a run, with the resources that it has created. */
import { type Call, caller, type TestKey } from '../http/testing.ts'
import type { App } from '../http/types.ts'

/** `deleted`: must return 404. `deleting`: a deletion was requested, and the resource can still be returned. */
type State = 'present' | 'deleted' | 'deleting'
type Owned = { id: string; state: State }

export class Tenant {
  readonly key: string
  readonly environment_id: string
  readonly principal: TestKey['principal']
  readonly call: Call
  /** A text that only this tenant writes. */
  readonly canary: string
  /** URLs of next pages. */
  readonly pageUrls: string[] = []
  /** Secrets of the other tenant that the fuzzer put into requests of this one. */
  readonly sentSecrets = new Set<string>()
  /** A key of the same scopes with a budget, and what it has created. */
  budgetKey: { id: string; key: string; budget_id: string } | null = null
  readonly madeWithBudget = new Set<string>()
  private readonly owned = new Map<string, Owned[]>()

  constructor(app: App, { key, principal }: TestKey) {
    this.key = key
    this.environment_id = principal.environment_id
    this.principal = principal
    const call = caller(app, key)
    // Resources that are created as a prerequisite of others count, too.
    this.call = async (...request) => {
      const response = await call(...request)
      if (response.status === 201 && response.body.id) this.add(response.body.id)
      return response
    }
    this.canary = `canary-${principal.environment_id.slice(4)}`
  }

  add(id: string): void {
    const type = typeOf(id)
    const all = this.owned.get(type) ?? []
    this.owned.set(type, all)
    if (!all.some((one) => one.id === id)) all.push({ id, state: 'present' })
  }

  /** The ID of the n-th resource of this type in this state; null if there is none. */
  nth(type: string, state: State, n: number): string | null {
    const some = (this.owned.get(type) ?? []).filter((one) => one.state === state)
    return some[n % some.length]?.id ?? null
  }

  stateOf(id: string): State | null {
    return this.owned.get(typeOf(id))?.find((one) => one.id === id)?.state ?? null
  }

  mark(id: string, state: State): void {
    const one = this.owned.get(typeOf(id))?.find((owned) => owned.id === id)
    if (one) one.state = state
  }

  /** Texts that the other tenant must never receive. */
  *secrets(): Generator<string> {
    yield this.canary
    yield this.environment_id
    for (const all of this.owned.values()) for (const { id } of all) yield id
  }
}

/** The prefix of an ID. */
export const typeOf = (id: string): string => id.slice(0, id.indexOf('_'))
