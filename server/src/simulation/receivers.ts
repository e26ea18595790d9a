/** Receivers of webhooks: machines of others, which do well or badly, and write down what reached them. */
import { createHmac } from 'node:crypto'
import { Readable } from 'node:stream'
import type { ConnectionResponse, OpenConnection } from '../lib/outbound-connection.ts'
import type { Random } from '../lib/random.ts'
import { chance, pick } from './chance.ts'
import { pass } from './faults.ts'

/** A request that reached a receiver. `wrong`: what is wrong with it as such. */
export type Receipt = { url: string; event: SentEvent; isTaken: boolean; wrong: string | null }
export type SentEvent = {
  id: string
  type: string
  sequence: number
  data: { object: { id: string; version?: number } }
}

type Manner = { status: number; headers?: Record<string, string> } | 'is not there' | 'breaks off'
const WELL: Manner = { status: 204 }
/** What a process sends that has stood still: the specification asks receivers to refuse it, as a replay. */
const TOO_OLD: Manner = { status: 400 }
const TOLERANCE_SECONDS = 300
/** What receivers are like, apart from well. */
const MANNERS: Record<string, Manner> = {
  fails: { status: 500 },
  'is busy': { status: 429, headers: { 'retry-after': '60' } },
  redirects: { status: 302, headers: { location: 'http://127.0.0.1:8080/elsewhere' } },
  'wants no more': { status: 410 },
  'is not there': 'is not there',
  'breaks off': 'breaks off',
}

export type Receivers = {
  openConnection: OpenConnection
  /** The secret that the owner of a receiver was given. */
  know(url: string, secret: string): void
  /** Some receiver is otherwise from now on. Null: there is none. */
  change(random: Random): string | null
  /** Sets how this receiver responds. */
  set(url: string, manner: Manner): void
  /** From now on they do well, all of them. */
  heal(): void
  /** What reached them since the last time. */
  receipts(): Receipt[]
  /** No request has come yet. */
  reset(): void
}

/** @param now the time of the world */
export function createReceivers(now: () => Date): Receivers {
  const secrets = new Map<string, string>()
  const manners = new Map<string, Manner>()
  let seen: Receipt[] = []

  function receive(url: string, headers: Record<string, string>, body: string): ConnectionResponse {
    const usual = manners.get(url) ?? WELL
    manners.set(url, usual)
    const manner = typeof usual === 'object' && isOld(headers, now()) ? TOO_OLD : usual
    if (manner === 'is not there') throw Object.assign(new Error('connection refused'), { code: 'ECONNREFUSED' })
    const secret = secrets.get(url)
    const wrong = secret === undefined ? null : wrongWith(secret, headers, body)
    seen.push({ url, event: JSON.parse(body), isTaken: manner === WELL, wrong })
    if (typeof manner === 'string') throw Object.assign(new Error('the connection is gone'), { code: 'ECONNRESET' })
    return { status: manner.status, headers: manner.headers ?? {}, body: Readable.from([]) }
  }

  return {
    openConnection: (_destination, { observe }) => ({
      request: (url, { headers = {}, body = '' }) =>
        pass({ what: 'request' }, async () => {
          for (const phase of ['connecting', 'reached', 'ready'] as const) {
            if (phase === 'connecting' || manners.get(url.href) !== 'is not there') observe?.(phase)
          }
          return receive(url.href, headers, String(body))
        }),
      close() {},
    }),
    know: (url, secret) => void secrets.set(url, secret),
    change(random) {
      if (manners.size === 0) return null
      const url = pick(random, [...manners.keys()])
      const [name, manner] = chance(random, 40) ? (['is well', WELL] as const) : pick(random, Object.entries(MANNERS))
      manners.set(url, manner)
      return `${url} ${name}`
    },
    set: (url, manner) => void manners.set(url, manner),
    heal() {
      for (const url of manners.keys()) manners.set(url, WELL)
    },
    receipts: () => seen.splice(0),
    reset() {
      secrets.clear()
      manners.clear()
      seen = []
    },
  }
}

/** The signature, as the Standard Webhooks specification has it. */
function wrongWith(secret: string, headers: Record<string, string>, body: string): string | null {
  const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures = '' } = headers
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64')
  const expected = `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`
  if (!signatures.split(' ').includes(expected)) return 'is not signed with the secret of the webhook'
  return id === JSON.parse(body).id ? null : 'has another id than its event'
}

const isOld = ({ 'webhook-timestamp': timestamp }: Record<string, string>, now: Date): boolean =>
  Math.abs(now.getTime() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS
