/** THE LIST of requests to the API. A new call is one entry: its weight, the request, and a check of the response. */
import { FAULTS } from '../drivers/simulated/timing.ts'
import type { Random } from '../lib/random.ts'
import { chance, pick } from './chance.ts'
import { type Attempt, type Body, type Client, observe, type Repeatable, type Response } from './client.ts'
import type { Receivers } from './receivers.ts'

/** What a call can use. `others`: clients of other environments. */
export type Scene = {
  client: Client
  others: Client[]
  random: Random
  /** Seconds since the start of the history. */
  seconds: number
  /** IDs of instances whose pass is paused: requests about them find more. */
  pausedIds: string[]
  receivers: Receivers
}

export type Call = {
  weight: number
  /** The request; null when there is no resource for it. */
  make(scene: Scene): Attempt | null
  /** Records a response. Returns a violation, or null. */
  check?(scene: Scene, response: Response, attempt: Attempt): string | null
}

const PLANS = ['micro-1x', 'micro-1x', 'micro-1x', 'standard-4x']
const NO_HEADERS: Attempt['headers'] = {}
/** Responses are stored for a day. After that an Idempotency-Key is new. */
const REPEATED_SECONDS = 23 * 3600

/** A request about one instance of these clients; null if they have none. */
function onOneOf(clients: Client[], { random, pausedIds }: Scene, make: (id: string) => Attempt): Attempt | null {
  const all = clients.flatMap(({ instances }) => [...instances])
  const alive = all.filter(([, { status }]) => status !== 'terminating' && status !== 'terminated')
  const exposed = all.filter(([id]) => pausedIds.includes(id))
  if (exposed.length > 0 && chance(random, 70)) return make(pick(random, exposed)[0])
  const ids = alive.length > 0 && chance(random, 90) ? alive : all
  return ids.length === 0 ? null : make(pick(random, ids)[0])
}

/** A response with one instance, which the client records. */
const shows: Call['check'] = ({ client }, { status, body }) =>
  status < 300 && 'version' in body ? observe(client, body) : null

/** An action on an instance of the client. */
const action = (weight: number, name: string, body: (random: Random) => Body | undefined = () => undefined): Call => ({
  weight,
  make: (scene) =>
    onOneOf([scene.client], scene, (id) => {
      const sent = body(scene.random)
      return { method: 'POST', url: `/v2/instances/${id}/actions/${name}`, ...(sent && { body: sent }) }
    }),
  check: shows,
})

const powerOptions = (random: Random): Body | undefined =>
  pick(random, [undefined, { force: true }, { timeout_seconds: 1 + random.integer(30) }])

/** A change of an instance of the client. */
const update = (weight: number, query: string, body: (random: Random) => Body): Call => ({
  weight,
  make: (scene) =>
    onOneOf([scene.client], scene, (id) => {
      const method = pick(scene.random, ['PUT', 'PATCH'] as const)
      return { method, url: `/v2/instances/${id}${query}`, body: body(scene.random) }
    }),
  check: shows,
})

export const CALLS: Record<string, Call> = {
  create: {
    weight: 9,
    make: ({ client, random, seconds }) => {
      const name = `${client.mode}-${++client.created}`
      const body: Body = {
        region: 'us-east-1',
        plan: pick(random, PLANS),
        image: 'micro-linux',
        name,
        ready_timeout_seconds: 20 + random.integer(40),
        auto_recovery: chance(random, 80),
        termination_protection: chance(random, 10),
        network: { assign_public_ip: chance(random, 50) },
        tags: chance(random, 25) ? { simulate: pick(random, FAULTS) } : {},
      }
      const headers = chance(random, 60) ? { 'idempotency-key': name } : NO_HEADERS
      const attempt: Attempt = { method: 'POST', url: '/v2/instances', body, headers }
      if (client.keys.length > 0 && chance(random, 40)) attempt.key = pick(random, client.keys).key
      else if (headers !== NO_HEADERS) client.repeatable.push({ attempt, name, seconds, createdId: null })
      return attempt
    },
    check: checkCreated,
  },
  repeat: {
    weight: 3,
    make: (scene) => {
      const repeatable = repeatables(scene)
      return repeatable.length === 0 ? null : pick(scene.random, repeatable).attempt
    },
    check: checkCreated,
  },
  dry_run: {
    weight: 1,
    make: () => {
      const body = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
      return { method: 'POST', url: '/v2/instances?dry_run=true', body }
    },
  },
  get: {
    weight: 7,
    make: (scene) => onOneOf([scene.client], scene, (id) => ({ method: 'GET', url: `/v2/instances/${id}` })),
    check: shows,
  },
  list: {
    weight: 4,
    make: () => ({ method: 'GET', url: '/v2/instances?limit=100' }),
    check: ({ client, others }, { body }) => {
      const listed = (body.data ?? []) as Body[]
      const foreign = listed.find(({ id }) => others.some((other) => other.instances.has(id as string)))
      if (foreign) return `${foreign.id} of another tenant was listed`
      return listed.map((shown) => observe(client, shown)).find((violation) => violation !== null) ?? null
    },
  },
  'get an instance of another tenant': {
    weight: 3,
    make: (scene) => onOneOf(scene.others, scene, (id) => ({ method: 'GET', url: `/v2/instances/${id}` })),
    check: isNotFound,
  },
  'delete an instance of another tenant': {
    weight: 2,
    make: (scene) => onOneOf(scene.others, scene, (id) => ({ method: 'DELETE', url: `/v2/instances/${id}` })),
    check: isNotFound,
  },
  stop: action(8, 'stop', powerOptions),
  start: action(8, 'start'),
  reboot: action(5, 'reboot', powerOptions),
  rebuild: action(4, 'rebuild'),
  describe: update(3, '', (random) => ({ tags: { note: String(random.integer(3)) } })),
  address: update(5, '', (random) => ({ network: { assign_public_ip: chance(random, 50) } })),
  resize: update(4, '?allow_reboot=true', (random) => ({ plan: pick(random, PLANS) })),
  protect: update(2, '', (random) => ({ termination_protection: chance(random, 30) })),
  desire: update(3, '', (random) => ({ desired_status: pick(random, ['running', 'stopped']) })),
  delete: {
    weight: 5,
    make: (scene) => onOneOf([scene.client], scene, (id) => ({ method: 'DELETE', url: `/v2/instances/${id}` })),
    check: shows,
  },
  'create a key': {
    weight: 2,
    make: ({ random }) => {
      const budget = {
        max_instances: 1 + random.integer(3),
        ...(chance(random, 30) && { ttl_seconds: 60 + random.integer(600) }),
      }
      return { method: 'POST', url: '/v2/api_keys', body: { name: 'k', scopes: ['instances:write'], budget } }
    },
    check: ({ client }, { status, body }) => {
      if (status === 201) client.keys.push({ id: body.id as string, key: body.key as string })
      return null
    },
  },
  'delete a key': {
    weight: 1,
    make: ({ client, random }) => {
      const [ended] = client.keys.splice(random.integer(Math.max(1, client.keys.length)), 1)
      return ended ? { method: 'DELETE', url: `/v2/api_keys/${ended.id}` } : null
    },
  },
  'read events': {
    weight: 4,
    make: ({ client }) => ({ method: 'GET', url: `/v2/events?after=${client.read}&limit=100` }),
    check: ({ client, others }, { status, body }) => {
      if (status !== 200) return null
      const events = body.data as { sequence: number; data: { object: { id: string } } }[]
      const foreign = events.find(({ data }) => others.some((other) => other.instances.has(data.object.id)))
      if (foreign) return `event ${foreign.sequence} of another tenant was read`
      for (const { sequence } of events) {
        if (sequence !== client.read + 1) return `event ${sequence} was read after ${client.read}`
        client.read = sequence
      }
      return null
    },
  },
  limits: { weight: 1, make: () => ({ method: 'GET', url: '/v2/limits' }) },
}

/** The creates that can be sent again. */
export const repeatables = ({ client, seconds }: Pick<Scene, 'client' | 'seconds'>): Repeatable[] =>
  client.repeatable.filter((each) => seconds - each.seconds < REPEATED_SECONDS)

/** One instance per Idempotency-Key, also when a response was lost. */
function checkCreated(scene: Scene, response: Response, attempt: Attempt): string | null {
  if (response.status !== 201) return null
  const { client } = scene
  const id = response.body.id as string
  const repeatable = client.repeatable.find((each) => each.attempt === attempt)
  if (repeatable?.createdId && repeatable.createdId !== id) {
    return `the Idempotency-Key ${repeatable.name} created ${repeatable.createdId} and ${id}`
  }
  if (repeatable) repeatable.createdId = id
  // A replay returns the first response, which can be older than what the client has recorded.
  return response.headers['idempotent-replayed'] ? observeReplay(client, response.body) : observe(client, response.body)
}

function observeReplay(client: Client, shown: Body): null {
  if (!client.instances.has(shown.id as string)) observe(client, shown)
  return null
}

/** Resources of another tenant are not found. */
export function isNotFound(_scene: Scene, { status }: Response, { url }: Attempt): string | null {
  return status === 404 ? null : `${url} of another tenant returned ${status}`
}
