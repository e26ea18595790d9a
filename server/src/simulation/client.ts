/** The client of an environment: what it has created, and the responses that later ones must not contradict. */

import type { Status } from '../instances/row.ts'
import { MOVES } from '../instances/status.ts'
import type { Tenant } from './world.ts'

export type Body = Record<string, unknown>
export type Response = { status: number; headers: Record<string, unknown>; body: Body }
export type Attempt = {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  url: string
  body?: Body
  headers?: Record<string, string>
  /** A key other than the client's first one. */
  key?: string
}

/** A create with an Idempotency-Key, which can be sent again. `createdId`: the ID in its response; null while there is none. */
export type Repeatable = { attempt: Attempt; name: string; seconds: number; createdId: string | null }

export type Client = Tenant & {
  instances: Map<string, { status: Status; version: number }>
  keys: { id: string; key: string }[]
  webhooks: string[]
  /** Number of receivers that it has used. */
  receivers: number
  repeatable: Repeatable[]
  created: number
  /** Sequence number of the last event that it has read. */
  read: number
}

export const newClient = (tenant: Tenant): Client => {
  return { ...tenant, instances: new Map(), keys: [], webhooks: [], receivers: 0, repeatable: [], created: 0, read: 0 }
}

/** Records an instance as a response shows it. Returns a violation: a decreasing version or an impossible change of status. */
export function observe(client: Client, shown: Body): string | null {
  const { id, status, version } = shown as { id: string; status: Status; version: number }
  const previous = client.instances.get(id)
  client.instances.set(id, { status, version })
  if (!previous) return null
  if (version < previous.version) return `${id} had version ${previous.version} and then ${version}`
  if (version === previous.version && status !== previous.status) {
    return `version ${version} of ${id} was ${previous.status} and ${status}`
  }
  return reachable(previous.status).has(status) ? null : `${id} was ${previous.status} and then ${status}`
}

const reaches = new Map<Status, Set<Status>>()
function reachable(from: Status): Set<Status> {
  const cached = reaches.get(from)
  if (cached) return cached
  const found = new Set([from])
  for (const status of found) for (const next of MOVES[status]) found.add(next)
  reaches.set(from, found)
  return found
}
