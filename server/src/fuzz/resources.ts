/** How to make one resource of each type, for the tests that are generated from the OpenAPI document. */
import { generateKeyPairSync } from 'node:crypto'
import type { Schema } from '../http/examples.ts'
import { resolve } from '../http/examples.ts'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import type { Call } from '../http/testing.ts'
import { addressOf, idType, type Operation } from './document.ts'

/**
 * Makes one with a key that may do everything and answers its id.
 * @param n a number that no other one has
 * @param within ids of what it is to be a part of, where its address names that, too
 */
type Make = (call: Call, n: number, within: string[]) => Promise<string>

const by =
  (path: string, body: (n: number) => unknown): Make =>
  async (call, n) =>
    created(await call('POST', path, body(n)))

/** How often something is tried again that others may undo. */
const MOST_TRIES = 5

/**
 * THE LIST, by the prefix of the id. A type that is not here is made by the POST that answers it, with the example of
 * its body and a name of its own; it needs an entry only where that does not do.
 */
const MAKERS: Record<string, Make> = {
  inst: by('/v2/instances', () => ({ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' })),
  img: by('/v2/images', (n) => ({ name: `image-${n}`, source: 'upload' })),
  sub: by('/v2/subnets', (n) => ({
    region: 'us-east-1',
    name: `net-${n}`,
    cidr: `10.${n % 60}.${(n >> 6) % 250}.0/24`,
  })),
  ssh: by('/v2/ssh_keys', (n) => ({ name: `key-${n}`, public_key: newPublicKey() })),
  dlv: async (call, n, within) => {
    let webhook = within.find((id) => id.startsWith('whk_')) ?? (await MAKERS.whk!(call, n, []))
    // Its owner, who asks beside, may disable it in between, or remove it: a stranger's request can do with another one.
    for (let tries = 1; ; tries++) {
      await call('PUT', `/v2/webhooks/${webhook}`, { enabled: true })
      const { status, body } = await call('POST', `/v2/webhooks/${webhook}/ping`)
      if (status === 202) return body.delivery_id
      if (tries === MOST_TRIES) return created({ status, body })
      if (status === 404) webhook = await MAKERS.whk!(call, n, [])
    }
  },
  whk: by('/v2/webhooks', () => ({ url: 'https://hooks.test/', events: ['*'] })),
  evt: async (call) => {
    const id = created(
      await call('POST', '/v2/instances', { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }),
    )
    return (await call('GET', `/v2/events?resource=${id}&limit=1`)).body.data[0].id
  },
  // Every request is one, and every write is an entry of the audit log.
  req: async (call) => (await call('GET', '/v2/plans')).headers['x-request-id']!,
  aud: async (call, n) => {
    const request_id = `entry-${n}`
    const key = { name: `key-${n}`, public_key: newPublicKey() }
    created(await call('POST', '/v2/ssh_keys', key, { 'x-request-id': request_id }))
    return (await call('GET', `/v2/audit_log?request_id=${request_id}`)).body.data[0].id
  },
}

/** Types whose resources are a part of one of another type. */
export const PART_OF: Record<string, string> = { dlv: 'whk' }

/** Types whose resources can be read after their end: who looks for what a key did finds it. */
export const STAYS_READABLE = new Set(['key'])

let count = 0

/** A new resource of this type, owned by the key of `call`. Throws with what to do for a type that nobody can make. */
export async function makeResource(
  type: string,
  call: Call,
  operations: Operation[],
  document: OpenapiDocument,
  within: string[] = [],
): Promise<string> {
  const make = MAKERS[type] ?? makerOf(type, operations, document)
  if (make) return make(call, ++count, within)
  throw new Error(
    `Nobody knows how to make a resource of the type ${type}_…: add an entry for it to MAKERS in server/src/fuzz/resources.ts, so that its routes are tested with resources of one's own and of others.`,
  )
}

/** The POST without path parameters that answers 201 with an id of this type. */
function makerOf(type: string, operations: Operation[], document: OpenapiDocument): Make | null {
  const operation = operations.find(({ method, answer, answers, pathParameters }) => {
    if (method !== 'POST' || !answers.has(201) || !answer || pathParameters.length > 0) return false
    const { id } = resolve(answer, document.components.schemas).properties ?? {}
    return id !== undefined && idType(id) === type
  })
  if (!operation) return null
  const { properties = {} } = operation.body ? resolve(operation.body.schema, document.components.schemas) : {}
  const named = 'name' in (properties as Record<string, Schema>)
  return by(addressOf(operation, {}), (n) => ({
    ...(operation.body?.example as object),
    ...(named && { name: `made-${n}` }),
  }))
}

function created({ status, body }: { status: number; body: { id?: string } }): string {
  if (status === 201 && body.id) return body.id
  throw new Error(`A resource could not be made: ${status} ${JSON.stringify(body)}`)
}

/** A line that OpenSSH would take, of a key that was never used. */
function newPublicKey(): string {
  const { x } = generateKeyPairSync('ed25519').publicKey.export({ format: 'jwk' })
  const field = (bytes: Buffer) => {
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    return Buffer.concat([length, bytes])
  }
  const blob = Buffer.concat([field(Buffer.from('ssh-ed25519')), field(Buffer.from(x!, 'base64url'))])
  return `ssh-ed25519 ${blob.toString('base64')}`
}
