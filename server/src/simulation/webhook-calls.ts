/** THE LIST of requests about webhooks, in histories with receivers. */
import { type Call, isNotFound } from './calls.ts'
import { chance, pick } from './chance.ts'
import type { Body, Client } from './client.ts'

const PATTERNS = [['*'], ['instance.*'], ['instance.*', 'webhook.*'], ['instance.created', 'instance.ready']]
const MAX_WEBHOOKS = 3

/** A new URL, so that each receiver belongs to one webhook. */
const newUrl = (client: Client): string => `http://127.0.0.1:8080/${client.environment_id}/${++client.receivers}`

const onOne = (
  weight: number,
  method: 'GET' | 'POST' | 'PATCH' | 'DELETE',
  path: string,
  body?: (client: Client, choose: (from: readonly Body[]) => Body) => Body,
): Call => ({
  weight,
  make: ({ client, random }) => {
    if (client.webhooks.length === 0) return null
    const url = `/v2/webhooks/${pick(random, client.webhooks)}${path}`
    return { method, url, ...(body && { body: body(client, (from) => pick(random, from)) }) }
  },
})

export const WEBHOOK_CALLS: Record<string, Call> = {
  'create a webhook': {
    weight: 10,
    make: ({ client, random }) => {
      if (client.webhooks.length >= MAX_WEBHOOKS) return null
      const body = { url: newUrl(client), events: pick(random, PATTERNS), enabled: chance(random, 90) }
      return { method: 'POST', url: '/v2/webhooks', body }
    },
    check: ({ client, receivers }, { status, body }, attempt) => {
      if (status !== 201) return null
      client.webhooks.push(body.id as string)
      receivers.setSecret(attempt.body!.url as string, body.secret as string)
      return null
    },
  },
  'enable or disable a webhook': onOne(2, 'PATCH', '', (_client, choose) =>
    choose([{ enabled: true }, { enabled: false }]),
  ),
  'change the URL of a webhook': onOne(1, 'PATCH', '', (client) => ({ url: newUrl(client) })),
  'ping a webhook': onOne(1, 'POST', '/ping'),
  'replay events': onOne(1, 'POST', '/replay', (client) => ({ from_sequence: 1, to_sequence: client.read + 3 })),
  'list deliveries': onOne(1, 'GET', '/deliveries?limit=100'),
  'delete a webhook': {
    ...onOne(1, 'DELETE', ''),
    check: ({ client }, { status }, { url }) => {
      if (status === 204) client.webhooks = client.webhooks.filter((id) => !url.endsWith(id))
      return null
    },
  },
  'get a webhook of another tenant': {
    weight: 1,
    make: ({ others, random }) => {
      const ids = others.flatMap(({ webhooks }) => webhooks)
      return ids.length === 0 ? null : { method: 'GET', url: `/v2/webhooks/${pick(random, ids)}` }
    },
    check: isNotFound,
  },
}
