/**
 * Scripted histories: a scenario names each request, each pass, each fault and each advance of time, in place of the random
 * choices of a seed. So it keeps its meaning when the simulation changes. Every step is a tick that checks all invariants.
 */
import { LEASE_SECONDS } from '../engine/work.ts'
import { type Attempt, observe, type Response } from './client.ts'
import type { Fault, Point } from './faults.ts'
import type { Mutant } from './mutants.ts'
import { fail, type Run, tick } from './run.ts'
import { send } from './send.ts'
import { hint, passLine, resume, work } from './ticks.ts'
import type { Worker } from './worker.ts'

export type Scenario = {
  /** The required behaviour, as the title of a test. */
  name: string
  /** Steps from a new installation. Afterwards everything is settled, terminated and checked, as in every history. */
  play(script: Script): Promise<void>
  /** What the product does otherwise than today in this scenario; the invariants hold all the same. */
  variant?: Mutant
  /** The fault of the product that this scenario detects, and by which invariant. */
  detects?: { mutant: Mutant; invariant: string }
}
export type Script = ReturnType<typeof createScript>

type At = 'before' | 'after'
/** The step pauses before this point, until the script resumes it. */
export const pauseBefore = (point: Point['what']): Fault => at('pause', 'before', point)
/** The process ends before or after this point. */
export const crash = (moment: At, point: Point['what']): Fault => at('crash', moment, point)
/** The caller gets an error before or after the effect of this point. */
export const error = (moment: At, point: Point['what']): Fault => at('error', moment, point)

/** `variant` 4 is a pause that lasts longer than a lease; of an error it is a timeout. */
function at(kind: Fault['kind'], moment: At, point: Point['what']): Fault {
  return { kind, at: 1, moment, variant: 4, point }
}

const MAX_SECONDS = 600

/** The steps of a script. The client is that of the first test environment; workers are numbered 0 and 1. */
export function createScript(run: Run) {
  const { world } = run
  const client = run.clients.find(({ mode }) => mode === 'test')!
  // Only the script decides on faults.
  run.faulty = false

  async function request(method: Attempt['method'], url: string, body?: Attempt['body']): Promise<Response['body']> {
    const responses: Response[] = []
    await tick(run, 'client', async () => {
      const { response, summary } = await send(run, client, { method, url, ...(body && { body }) }, null)
      if (response) responses.push(response)
      return `${method} ${url} → ${summary}`
    })
    const [response] = responses
    if (!response || response.status >= 300) fail(run, 'scenario', `${method} ${url} failed`)
    if ('version' in response.body && url.startsWith('/v2/instances')) observe(client, response.body)
    return response.body
  }

  /** One pass of this key by this worker, which claims it first. */
  async function pass(index: 0 | 1, id: string, fault: Fault | null = null): Promise<void> {
    const worker = run.workers[index]
    const isHeld = () => worker.held.find((claimed) => claimed.id === id)
    await tick(run, 'engine', async () => {
      if (!isHeld()) await worker.claim()
      const claimed = isHeld()
      if (!claimed) fail(run, 'scenario', `${id} is not due`)
      const result = await worker.begin(claimed, fault)
      if (fault && result.faultAt === null) fail(run, 'scenario', `the pass of ${id} has no ${fault.point}`)
      return passLine(run, worker, result)
    })
  }

  /** Advances time. Workers renew their leases, except one with a paused step. */
  async function advance(seconds: number): Promise<void> {
    await tick(run, 'time', async () => {
      await world.advance(seconds)
      for (const worker of run.workers) if (worker.paused.length === 0) await worker.renew()
      return `${seconds} s`
    })
  }

  /** Delivers hints, runs due keys with this worker and advances time until the instance has the status. */
  async function until(index: 0 | 1, id: string, status: string): Promise<void> {
    for (let seconds = 0; seconds < MAX_SECONDS; seconds++) {
      while (world.hints.length > 0) await tick(run, 'hint', () => hint(run))
      while (await tick(run, 'engine', () => work(run, run.workers[index] as Worker)));
      const rows = await world.owner`select from instances where id = ${id} and status = ${status}`
      if (rows.count > 0) return
      await advance(1)
    }
    fail(run, 'scenario', `${id} is not ${status} after ${MAX_SECONDS} s`)
  }

  return {
    request,
    pass,
    advance,
    until,
    /** Creates an instance with these fields besides the usual ones. Returns its ID. */
    async create(fields: object = {}): Promise<string> {
      const body = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', ...fields }
      return (await request('POST', '/v2/instances', body)).id as string
    },
    /** Creates a webhook whose endpoint always returns 410. Returns its ID. */
    async createGoneWebhook(): Promise<string> {
      const url = `http://127.0.0.1:8080/${client.environment_id}/${++client.receivers}`
      const webhook = await request('POST', '/v2/webhooks', { url, events: ['instance.*'] })
      world.receivers.setSecret(url, webhook.secret as string)
      world.receivers.set(url, { status: 410 })
      client.webhooks.push(webhook.id as string)
      return webhook.id as string
    },
    /** Continues the paused step of this worker. */
    resume: (index: 0 | 1) => tick(run, 'engine', () => resume(run, run.workers[index] as Worker)),
    /** Fails unless the machine has this power state. */
    async expectPower(id: string, power: string): Promise<void> {
      const [row] = await world.owner<{ power: string }[]>`
        select machine ->> 'power' as power from simulated_machines where id = ${id}`
      if (row?.power !== power) fail(run, 'scenario', `the machine of ${id} is ${row?.power}, not ${power}`)
    },
    /** Advances time until the lease of a paused step has expired. */
    expireLease: () => advance(LEASE_SECONDS + 1),
  }
}
