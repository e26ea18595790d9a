/**
 * Clients that record each request and its outcome, on the simulated machines of the test environment. Afterwards the
 * journal is compared with the events: an acknowledged request has exactly one, a refused request none, and a request of
 * unknown outcome at most one. For a POST, a retry with the same Idempotency-Key decides which of the two.
 */
import assert from 'node:assert/strict'
import type { Sql } from '../server/src/db/database.ts'
import { systemClock } from '../server/src/lib/clock.ts'
import type { Random } from '../server/src/lib/random.ts'
import { until } from '../server/src/testing/until.ts'
import type { ControlPlane } from './control-plane.ts'
import { type Outcome, outcomeOf, responseOf } from './outcome.ts'

type Entry = { kind: 'create' | 'rename' | 'terminate'; name: string; id: string; outcome: Outcome }

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
/** Instances at the same time. */
const INSTANCES = 30

export class Journal {
  readonly #plane: ControlPlane
  readonly #random: Random
  readonly #entries: Entry[] = []
  readonly #alive = new Set<string>()
  #count = 0

  constructor(plane: ControlPlane, random: Random) {
    this.#plane = plane
    this.#random = random
  }

  /** One client: writes until `working` returns false. */
  async client(working: () => boolean): Promise<void> {
    while (working()) {
      await this.#write()
      await systemClock.sleep(20 + this.#random.integer(100))
    }
  }

  #write(): Promise<void> {
    const ids = [...this.#alive]
    const id = ids[this.#random.integer(Math.max(1, ids.length))]
    const choice = this.#random.integer(100)
    if (id === undefined || (choice < 40 && ids.length < INSTANCES)) return this.#create()
    return choice < 85 ? this.#rename(id) : this.#terminate(id)
  }

  async #create(): Promise<void> {
    const entry = this.#add('create', '')
    await this.#persist(entry, false)
  }

  async #rename(id: string): Promise<void> {
    const entry = this.#add('rename', id)
    entry.outcome = await this.#outcome('PUT', `/v2/instances/${id}`, { name: entry.name })
  }

  async #terminate(id: string): Promise<void> {
    this.#alive.delete(id)
    const entry = this.#add('terminate', id)
    entry.outcome = await this.#outcome('DELETE', `/v2/instances/${id}`)
  }

  async #outcome(method: string, path: string, body?: object): Promise<Outcome> {
    const response = await this.#send(method, path, body)
    return response ? outcomeOf(`${method} ${path}`, response) : 'unknown'
  }

  #add(kind: Entry['kind'], id: string): Entry {
    const entry: Entry = { kind, name: `written-${++this.#count}`, id, outcome: 'unknown' }
    this.#entries.push(entry)
    return entry
  }

  async #persist(entry: Entry, isRetry: boolean): Promise<void> {
    const headers = { 'idempotency-key': entry.name }
    const response = await this.#send('POST', '/v2/instances', { ...BODY, name: entry.name }, headers)
    if (!response) return
    assert.equal(response.status, 201, JSON.stringify(response.body))
    Object.assign(entry, { id: response.body.id, outcome: 'done' })
    if (!isRetry) this.#alive.add(response.body.id)
  }

  /** Null when the outcome is unknown. */
  #send(method: string, path: string, body?: object, headers = {}): Promise<{ status: number; body: any } | null> {
    const sent = fetch(`http://127.0.0.1:${this.#plane.port}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.#plane.credentials.test_key}`,
        ...(body && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body && { body: JSON.stringify(body) }),
    })
    const received = sent.then(async (response) => ({ status: response.status, body: await response.json() }))
    return responseOf(`${method} ${path}`, received)
  }

  /** Retries every create whose outcome is unknown, until it has a response. */
  async decide(): Promise<void> {
    for (const entry of this.#entries.filter(({ kind, outcome }) => kind === 'create' && outcome === 'unknown')) {
      await until(`${entry.name} has a response`, async () => {
        await this.#persist(entry, true)
        return entry.outcome === 'done'
      })
    }
  }

  /** The differences between events and journal. No instance may be in transition. */
  async compare(owner: Sql): Promise<{ findings: string[]; written: Record<Outcome, number> }> {
    const rows = await owner<{ type: string; id: string; name: string; renamed: boolean }[]>`
      select e.type, e.resource_id as id, e.data -> 'object' ->> 'name' as name,
        coalesce((e.data -> 'previous' ->> 'name') is not null, false) as renamed
      from events e join environments v on v.id = e.environment_id where v.mode = 'test' and e.resource_type = 'instance'`
    const counts = new Map<string, number>()
    const count = (key: string) => counts.set(key, (counts.get(key) ?? 0) + 1)
    for (const { type, id, name, renamed } of rows) {
      if (type === 'instance.created') count(`create ${name}`)
      if (type === 'instance.updated' && renamed) count(`rename ${name}`)
      if (type === 'instance.terminated') count(`terminate ${id}`)
    }
    const findings = this.#entries.flatMap(({ kind, name, id, outcome }) => {
      const found = counts.get(`${kind} ${kind === 'terminate' ? id : name}`) ?? 0
      const isRight = outcome === 'done' ? found === 1 : outcome === 'refused' ? found === 0 : found <= 1
      return isRight ? [] : [`${kind} ${name} ${id}: ${outcome}, with ${found} events`]
    })
    const made = new Set(this.#entries.filter(({ kind }) => kind === 'create').map(({ name }) => `create ${name}`))
    for (const key of counts.keys()) {
      if (key.startsWith('create') && !made.has(key)) findings.push(`${key}: no client sent this request`)
    }
    const written: Record<Outcome, number> = { done: 0, refused: 0, unknown: 0 }
    for (const { outcome } of this.#entries) written[outcome]++
    return { findings, written }
  }
}
