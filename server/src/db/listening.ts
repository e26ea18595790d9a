import pg from 'pg'
import { systemClock } from '../lib/clock.ts'
import { CONNECT_TIMEOUT_MS } from './pools.ts'
import { pinSession } from './session.ts'

const RECONNECT_MS = 250

export type Listener = { unlisten(): Promise<void> }

type Subscription = { channel: string; notified: (payload: string) => void; gap: (() => void) | undefined }

/** One connection for all channels, opened again when it is lost. */
export function createListening(config: pg.ClientConfig) {
  const subscriptions = new Set<Subscription>()
  let client: Promise<pg.Client> | null = null
  let ended = false

  async function open(): Promise<pg.Client> {
    const fresh = new pg.Client({ ...config, connectionTimeoutMillis: CONNECT_TIMEOUT_MS, keepAlive: true })
    fresh.on('error', () => {})
    fresh.on('notification', ({ channel, payload }) => {
      for (const one of [...subscriptions]) if (one.channel === channel) one.notified(payload ?? '')
    })
    await fresh.connect()
    await pinSession(fresh)
    // Registered only now: a refused connection also ends, and its caller retries.
    fresh.once('end', () => void reopen())
    for (const channel of new Set([...subscriptions].map((one) => one.channel))) await subscribe(fresh, channel)
    return fresh
  }

  async function reopen(): Promise<void> {
    while (!ended && subscriptions.size > 0) {
      await systemClock.sleep(RECONNECT_MS)
      if (ended) return
      client = open()
      const isOpen = await client.then(
        () => true,
        () => false,
      )
      if (!isOpen) continue
      for (const one of [...subscriptions]) one.gap?.()
      return
    }
    client = null
  }

  const subscribe = (to: pg.Client, channel: string) => to.query(`listen ${pg.escapeIdentifier(channel)}`)

  return {
    async listen(channel: string, notified: (payload: string) => void, gap?: () => void): Promise<Listener> {
      const one = { channel, notified, gap }
      subscriptions.add(one)
      client ??= open()
      await subscribe(await client, channel)
      return { unlisten: async () => void subscriptions.delete(one) }
    },
    async end() {
      ended = true
      subscriptions.clear()
      await client?.then((open) => open.end()).catch(() => {})
    },
  }
}
