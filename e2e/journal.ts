/**
 * Clients that write down what they asked for and what they were told, on the simulated machines of the test
 * environment. Afterwards the events are held against it: what was acknowledged has exactly one, what was refused none,
 * and what got no answer has happened with its one event or not at all. For a POST, asking again with the same
 * Idempotency-Key decides which of the two.
 */
import assert from 'node:assert/strict'
import type { Sql } from '../server/src/db/database.ts'
import type { Random } from '../server/src/lib/random.ts'
import { until } from '../server/src/testing/until.ts'
import type { ControlPlane } from './control-plane.ts'

/** `unknown`: there was no answer, or none that says whether it happened. */
type Entry = { kind: 'create' | 'rename' | 'terminate'; name: string; id: string; told: 'done' | 'refused' | 'unknown' }

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

  /** One client: writes until `working` says no. */
  async client(working: () => boolean): Promise<void> {
    while (working()) {
      await this.#write()
      await new Promise((resolve) => setTimeout(resolve, 20 + this.#random.integer(100)))
    }
  }

  #write(): Promise<void> {
    const ids = [...this.#alive]
    const id = ids[this.#random.integer(Math.max(1, ids.length))]
    const luck = this.#random.integer(100)
    if (id === undefined || (luck < 40 && ids.length < INSTANCES)) return this.#create()
    return luck < 85 ? this.#rename(id) : this.#terminate(id)
  }

  async #create(): Promise<void> {
    const entry = this.#note('create', '')
    await this.#persist(entry, false)
  }

  async #rename(id: string): Promise<void> {
    const entry = this.#note('rename', id)
    const { status } = await this.#send('PUT', `/v2/instances/${id}`, { name: entry.name })
    entry.told = toldBy(status)
  }

  async #terminate(id: string): Promise<void> {
    this.#alive.delete(id)
    const entry = this.#note('terminate', id)
    const { status } = await this.#send('DELETE', `/v2/instances/${id}`)
    entry.told = toldBy(status)
  }

  #note(kind: Entry['kind'], id: string): Entry {
    const entry: Entry = { kind, name: `written-${++this.#count}`, id, told: 'unknown' }
    this.#entries.push(entry)
    return entry
  }

  async #persist(entry: Entry, again: boolean): Promise<void> {
    const headers = { 'idempotency-key': entry.name }
    const { status, body } = await this.#send('POST', '/v2/instances', { ...BODY, name: entry.name }, headers)
    if (status !== 201) assert.ok(toldBy(status) === 'unknown', `${status} ${JSON.stringify(body)}`)
    else Object.assign(entry, { id: body.id, told: 'done' })
    if (status === 201 && !again) this.#alive.add(body.id)
  }

  async #send(method: string, path: string, body?: object, headers = {}): Promise<{ status: number; body: any }> {
    const response = await fetch(`http://127.0.0.1:${this.#plane.port}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${this.#plane.credentials.test_key}`,
        ...(body && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body && { body: JSON.stringify(body) }),
    }).catch(() => null)
    const answer = await response?.json().catch(() => null)
    return response && answer ? { status: response.status, body: answer } : { status: 0, body: null }
  }

  /** Asks again for every create that got no answer, until it has one. */
  async decide(): Promise<void> {
    for (const entry of this.#entries.filter(({ kind, told }) => kind === 'create' && told === 'unknown')) {
      await until(`${entry.name} is answered`, async () => {
        await this.#persist(entry, true)
        return entry.told === 'done'
      })
    }
  }

  /** What the events say that the journal does not. Everything must be at rest. */
  async compare(owner: Sql): Promise<{ findings: string[]; written: Record<Entry['told'], number> }> {
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
    const findings = this.#entries.flatMap(({ kind, name, id, told }) => {
      const found = counts.get(`${kind} ${kind === 'terminate' ? id : name}`) ?? 0
      const isRight = told === 'done' ? found === 1 : told === 'refused' ? found === 0 : found <= 1
      return isRight ? [] : [`${kind} ${name} ${id}: ${told}, and ${found} events`]
    })
    const made = new Set(this.#entries.filter(({ kind }) => kind === 'create').map(({ name }) => `create ${name}`))
    for (const key of counts.keys()) {
      if (key.startsWith('create') && !made.has(key)) findings.push(`${key}: nobody asked for it`)
    }
    const written: Record<Entry['told'], number> = { done: 0, refused: 0, unknown: 0 }
    for (const { told } of this.#entries) written[told]++
    return { findings, written }
  }
}

function toldBy(status: number): Entry['told'] {
  if (status >= 200 && status < 300) return 'done'
  // In flight, limited, unavailable, or no answer at all.
  if (status === 0 || status === 429 || status >= 500) return 'unknown'
  return 'refused'
}
