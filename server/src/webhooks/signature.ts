/** Signatures and secrets of the Standard Webhooks specification 1.0.0. */
import { createHmac } from 'node:crypto'
import type { Random } from '../lib/random.ts'

const SECRET_BYTES = 32

/** A new secret: its bytes, and the text that the receiver stores. */
export function newSecret(random: Random): { bytes: Uint8Array; text: string } {
  const bytes = random.bytes(SECRET_BYTES)
  return { bytes, text: `whsec_${Buffer.from(bytes).toString('base64')}` }
}

export type Message = {
  /** The ID of the event; the same in every attempt. */
  id: string
  body: string
}

/** The request headers without the signature; `at` is real time. */
export function headersOf(message: Message, at: Date, version: string): Record<string, string> {
  return {
    'content-type': 'application/json',
    'user-agent': `CloudNexus-Webhooks/${version}`,
    'webhook-id': message.id,
    'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
  }
}

/** The value of `webhook-signature`: one signature per secret, in order. */
export function sign({ id, body }: Message, timestamp: string, secrets: readonly Uint8Array[]): string {
  const content = `${id}.${timestamp}.${body}`
  return secrets.map((secret) => `v1,${createHmac('sha256', secret).update(content).digest('base64')}`).join(' ')
}
