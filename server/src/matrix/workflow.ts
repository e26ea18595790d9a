/** What the matrix needs of each kind of resource: how to create it, its state, and the workflows of its reconciler. */
import type { Sql } from '../db/database.ts'
import type { Scope } from '../keys/scopes.ts'

/** A request about the resource, by its ID. */
export type Request = (id: string) => [method: string, path: string, body?: unknown]

/** A way to reach steps of a reconciler: a resource in its initial state, what changes it, and the expected end. */
export type Workflow = {
  name: string
  mode: 'live' | 'test'
  /** Creates the resource. */
  create: (scene: Creation) => Promise<string>
  /** The budget of the key that creates it. */
  budget?: object
  /** Steps before the faults, and the state that each leads to. The first one follows the create. */
  from?: { request?: Request; until: string }[]
  /** The request whose passes have the faults; omitted: the create. */
  request?: Request
  /** In place of a request: a failure of the machines of an environment. */
  fail?: (owner: Sql, environmentId: string) => PromiseLike<unknown>
  /** The expected state at the end. */
  goal: string
  /** Another state that is correct after some faults. */
  or?: string
  /** How far the environment's time may advance until then. */
  horizon_seconds?: number
}

/** What a create uses: the API with the key of the scene, a URL that receives webhooks, and a number for unique names. */
export type Creation = {
  post(path: string, body: object): Promise<string>
  receiverUrl(): Promise<string>
  nextNumber(): number
}

/** A kind of resource whose key has a reconciler. */
export type Kind = {
  /** The kind of its work key. */
  name: string
  /** The URL of the collection. */
  path: string
  /** What the key of a scene needs. */
  scopes: readonly Scope[]
  /** The states of resources; one without a row is left out. */
  states(owner: Sql, ids: string[]): PromiseLike<readonly { id: string; state: string }[]>
  /** The state of a resource without a row. */
  absent: string
  /** The state after its DELETE. */
  deleted: string
  workflows: Workflow[]
}
