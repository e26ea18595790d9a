/** Simulated receivers of webhooks: they accept or fail, and record the requests that reach them. */
import { createHmac } from 'node:crypto'
import { Readable } from 'node:stream'
import type { ConnectionResponse, OpenConnection } from '../lib/outbound-connection.ts'
import type { Random } from '../lib/random.ts'
import { chance, pick } from './chance.ts'
import { atPoint } from './faults.ts'

/** A request that reached a receiver. `violation`: how it differs from the specification; null if it does not. */
export type Receipt = { url: string; event: SentEvent; isAccepted: boolean; violation: string | null }
export type SentEvent = {
  id: string
  type: string
  sequence: number
  data: { object: { id: string; version?: number } }
}

type Behavior = { status: number; headers?: Record<string, string> } | 'refuses connections' | 'resets connections'
const ACCEPTS: Behavior = { status: 204 }
/** The response to an old timestamp, as of a process that was paused: the specification requires that receivers reject it. */
const TOO_OLD: Behavior = { status: 400 }
const TOLERANCE_SECONDS = 300
/** Behaviors other than accepting everything. */
const BEHAVIORS: Record<string, Behavior> = {
  'returns 500': { status: 500 },
  'returns 429': { status: 429, headers: { 'retry-after': '60' } },
  'returns 302': { status: 302, headers: { location: 'http://127.0.0.1:8080/elsewhere' } },
  'returns 410': { status: 410 },
  'refuses connections': 'refuses connections',
  'resets connections': 'resets connections',
}

export type Receivers = {
  openConnection: OpenConnection
  /** Gives the receiver the secret of its webhook. */
  setSecret(url: string, secret: string): void
  /** Changes the behavior of one receiver. Returns null if there is none. */
  change(random: Random): string | null
  /** Sets how this receiver responds. */
  set(url: string, behavior: Behavior): void
  /** All receivers accept everything from now on. */
  heal(): void
  /** The requests that reached receivers since the last call. */
  receipts(): Receipt[]
  /** Removes all receivers and requests. */
  reset(): void
}

/** @param now the simulated time */
export function createReceivers(now: () => Date): Receivers {
  const secrets = new Map<string, string>()
  const behaviors = new Map<string, Behavior>()
  let received: Receipt[] = []

  function receive(url: string, headers: Record<string, string>, body: string): ConnectionResponse {
    const usual = behaviors.get(url) ?? ACCEPTS
    behaviors.set(url, usual)
    const behavior = typeof usual === 'object' && isOld(headers, now()) ? TOO_OLD : usual
    if (behavior === 'refuses connections')
      throw Object.assign(new Error('connection refused'), { code: 'ECONNREFUSED' })
    const secret = secrets.get(url)
    const violation = secret === undefined ? null : violationOf(secret, headers, body)
    received.push({ url, event: JSON.parse(body), isAccepted: behavior === ACCEPTS, violation })
    if (typeof behavior === 'string') throw Object.assign(new Error('the connection was reset'), { code: 'ECONNRESET' })
    return { status: behavior.status, headers: behavior.headers ?? {}, body: Readable.from([]) }
  }

  return {
    openConnection: (_destination, { observe }) => ({
      request: (url, { headers = {}, body = '' }) =>
        atPoint({ what: 'request' }, async () => {
          for (const phase of ['connecting', 'reached', 'ready'] as const) {
            if (phase === 'connecting' || behaviors.get(url.href) !== 'refuses connections') observe?.(phase)
          }
          return receive(url.href, headers, String(body))
        }),
      close() {},
    }),
    setSecret: (url, secret) => void secrets.set(url, secret),
    change(random) {
      if (behaviors.size === 0) return null
      const url = pick(random, [...behaviors.keys()])
      const [name, behavior] = chance(random, 40)
        ? (['accepts', ACCEPTS] as const)
        : pick(random, Object.entries(BEHAVIORS))
      behaviors.set(url, behavior)
      return `${url} ${name}`
    },
    set: (url, behavior) => void behaviors.set(url, behavior),
    heal() {
      for (const url of behaviors.keys()) behaviors.set(url, ACCEPTS)
    },
    receipts: () => received.splice(0),
    reset() {
      secrets.clear()
      behaviors.clear()
      received = []
    },
  }
}

/** Checks the signature as the Standard Webhooks specification defines it. */
function violationOf(secret: string, headers: Record<string, string>, body: string): string | null {
  const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures = '' } = headers
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64')
  const expected = `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`
  if (!signatures.split(' ').includes(expected)) return 'the signature does not match the secret of the webhook'
  return id === JSON.parse(body).id ? null : 'the ID differs from that of the event'
}

const isOld = ({ 'webhook-timestamp': timestamp }: Record<string, string>, now: Date): boolean =>
  Math.abs(now.getTime() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS
