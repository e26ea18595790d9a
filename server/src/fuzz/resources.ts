/** Creates a resource of each type, for the tests that are generated from the OpenAPI document. */
import { generateKeyPairSync } from 'node:crypto'
import type { Schema } from '../http/examples.ts'
import { resolve } from '../http/examples.ts'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import type { Call } from '../http/testing.ts'
import { idType, type Operation, urlOf } from './document.ts'

/**
 * Creates a resource with a key that has all scopes, and returns its ID.
 * @param n a unique number
 * @param parents IDs of its parents, if its URL contains them
 */
type Factory = (call: Call, n: number, parents: string[]) => Promise<string>

const by =
  (path: string, body: (n: number) => unknown): Factory =>
  async (call, n) =>
    created(await call('POST', path, body(n)))

/** Attempts of an action that concurrent requests can undo. */
const MAX_ATTEMPTS = 5

/**
 * Factories by ID prefix. A type without an entry is created by the POST that returns it, with the example body and a unique
 * name; only types for which that fails need an entry.
 */
const FACTORIES: Record<string, Factory> = {
  inst: by('/v2/instances', () => ({ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' })),
  img: by('/v2/images', (n) => ({ name: `image-${n}`, source: 'upload' })),
  sub: by('/v2/subnets', (n) => ({
    region: 'us-east-1',
    name: `net-${n}`,
    cidr: `10.${n % 60}.${(n >> 6) % 250}.0/24`,
  })),
  ssh: by('/v2/ssh_keys', (n) => ({ name: `key-${n}`, public_key: newPublicKey() })),
  dlv: async (call, n, parents) => {
    let webhook = parents.find((id) => id.startsWith('whk_')) ?? (await FACTORIES.whk!(call, n, []))
    // Concurrent requests of its owner can disable or delete the webhook. Then another webhook is as good.
    for (let attempt = 1; ; attempt++) {
      const enabled = await call('PUT', `/v2/webhooks/${webhook}`, { enabled: true })
      if (enabled.status >= 500) return created(enabled)
      const { status, body } = await call('POST', `/v2/webhooks/${webhook}/ping`)
      if (status === 202) return body.delivery_id
      if (status >= 500 || attempt === MAX_ATTEMPTS) return created({ status, body })
      if (status === 404) webhook = await FACTORIES.whk!(call, n, [])
    }
  },
  whk: by('/v2/webhooks', () => ({ url: 'https://hooks.test/', events: ['*'] })),
  evt: async (call) => {
    const id = created(
      await call('POST', '/v2/instances', { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }),
    )
    return (await call('GET', `/v2/events?resource=${id}&limit=1`)).body.data[0].id
  },
  // Every request is recorded, and every write adds an audit entry.
  req: async (call) => (await call('GET', '/v2/plans')).headers['x-request-id']!,
  aud: async (call, n) => {
    const request_id = `entry-${n}`
    const key = { name: `key-${n}`, public_key: newPublicKey() }
    created(await call('POST', '/v2/ssh_keys', key, { 'x-request-id': request_id }))
    return (await call('GET', `/v2/audit_log?request_id=${request_id}`)).body.data[0].id
  },
}

/** The parent type of types whose resources belong to another resource. */
export const PARENT_TYPE: Record<string, string> = { dlv: 'whk' }

/** Types whose resources can be read after their deletion, such as keys that the audit log refers to. */
export const READABLE_AFTER_DELETE = new Set(['key'])

let count = 0

/** Creates a resource of this type with the key of `call`. Throws with instructions for a type without a factory. */
export async function makeResource(
  type: string,
  call: Call,
  operations: Operation[],
  document: OpenapiDocument,
  parents: string[] = [],
): Promise<string> {
  const make = FACTORIES[type] ?? factoryOf(type, operations, document)
  if (make) return make(call, ++count, parents)
  throw new Error(
    `No factory for resources of the type ${type}_…: add an entry to FACTORIES in server/src/fuzz/resources.ts, so that its routes are tested with resources of this and of other tenants.`,
  )
}

/** A factory from the POST without path parameters that returns 201 with an ID of this type. */
function factoryOf(type: string, operations: Operation[], document: OpenapiDocument): Factory | null {
  const operation = operations.find(({ method, successSchema, responses, pathParameters }) => {
    if (method !== 'POST' || !responses.has(201) || !successSchema || pathParameters.length > 0) return false
    const { id } = resolve(successSchema, document.components.schemas).properties ?? {}
    return id !== undefined && idType(id) === type
  })
  if (!operation) return null
  const { properties = {} } = operation.body ? resolve(operation.body.schema, document.components.schemas) : {}
  const named = 'name' in (properties as Record<string, Schema>)
  return by(urlOf(operation, {}), (n) => ({
    ...(operation.body?.example as object),
    ...(named && { name: `made-${n}` }),
  }))
}

function created({ status, body }: { status: number; body: { id?: string } }): string {
  if (status === 201 && body.id) return body.id
  throw new Error(`creating a resource failed: ${status} ${JSON.stringify(body)}`)
}

/** A valid OpenSSH public key that is new each time. */
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
