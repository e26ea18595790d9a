/** The real guests of the crash loop: clients that create, stop, start and delete them, and the recorded responses. */
import assert from 'node:assert/strict'
import { CANARY } from '../server/src/db/testing-canary.ts'
import { systemClock } from '../server/src/lib/clock.ts'
import type { Random } from '../server/src/lib/random.ts'
import type { ApiResponse, ControlPlane } from './control-plane.ts'
import { responseOf } from './outcome.ts'

/** What the clients have recorded of one instance. */
export type Guest = {
  id: string
  /** What the last acknowledged request asked for; null while a request has no response. */
  desired: 'running' | 'stopped' | 'terminated' | null
  /** The round of the last request. */
  touched: number
  /** How often its QEMU was killed. More is a crash loop, which the control plane gives up. */
  kills: number
  /** Its QEMU is being killed: no client changes it until it has recovered. */
  reserved: boolean
}

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', user_data: `#!/bin/sh\n: ${CANARY}\n` }

export class Guests {
  readonly known = new Map<string, Guest>()
  /** Counts the kills of the crash loop. */
  round = 0
  readonly #plane: ControlPlane
  readonly #random: Random
  readonly #limit: number

  /** @param limit guests at the same time */
  constructor(plane: ControlPlane, random: Random, limit: number) {
    this.#plane = plane
    this.#random = random
    this.#limit = limit
  }

  /** An instance that exists, whichever client created it. */
  add(id: string): void {
    if (this.known.has(id)) return
    this.known.set(id, { id, desired: 'running', touched: this.round, kills: 0, reserved: false })
  }

  /** Calls the API with the live key; null when the outcome is unknown. */
  call(method: string, path: string, body?: object): Promise<ApiResponse | null> {
    return responseOf(`${method} ${path}`, this.#plane.call(method, path, body))
  }

  /** One client: picks an operation, sends it and records the response, until `working` returns false. */
  async client(working: () => boolean): Promise<void> {
    while (working()) {
      await this.#operate()
      await systemClock.sleep(100 + this.#random.integer(400))
    }
  }

  async #operate(): Promise<void> {
    const own = [...this.known.values()].filter(({ desired, reserved }) => desired !== 'terminated' && !reserved)
    const guest = own[this.#random.integer(Math.max(1, own.length))]
    const choice = this.#random.integer(100)
    if (own.length < this.#limit && (choice < 60 || !guest)) return this.#create()
    if (guest && choice < 80) return this.#act(guest, guest.desired === 'running' ? 'stop' : 'start')
    if (guest && choice < 90) return this.#terminate(guest)
  }

  async #create(): Promise<void> {
    const response = await this.call('POST', '/v2/instances', BODY)
    if (!response || response.body.code === 'capacity_exhausted') return
    assert.equal(response.status, 201, JSON.stringify(response.body))
    this.add(response.body.id)
  }

  async #act(guest: Guest, action: 'start' | 'stop'): Promise<void> {
    const before = guest.desired
    Object.assign(guest, { desired: null, touched: this.round })
    const body = action === 'stop' ? { timeout_seconds: 5 } : {}
    const response = await this.call('POST', `/v2/instances/${guest.id}/actions/${action}`, body)
    if (response?.status === 202) guest.desired = action === 'stop' ? 'stopped' : 'running'
    else if (response?.status === 409) guest.desired = before
  }

  async #terminate(guest: Guest): Promise<void> {
    Object.assign(guest, { desired: null, touched: this.round })
    const response = await this.call('DELETE', `/v2/instances/${guest.id}`)
    if (response?.status === 202) guest.desired = 'terminated'
  }
}
