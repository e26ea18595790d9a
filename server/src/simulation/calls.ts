/** THE LIST of what clients ask of the API. A new call is one entry: how often, what is sent, what must hold of its answer. */
import { FAULTS } from '../drivers/simulated/timing.ts'
import type { Random } from '../lib/random.ts'
import { chance, pick } from './chance.ts'
import { type Answer, type Attempt, type Body, type Client, notice, type Repeatable } from './client.ts'
import type { Receivers } from './receivers.ts'

/** What a call is made from. `others`: clients of other environments. */
export type Scene = {
  client: Client
  others: Client[]
  random: Random
  /** Since the beginning. */
  seconds: number
  /** Instances whose step stands still: what happens to these now is worth more than other things. */
  amidst: string[]
  receivers: Receivers
}

export type Call = {
  weight: number
  /** Null: there is nothing to ask this about now. */
  make(scene: Scene): Attempt | null
  /** Takes note of an answer that arrived; answers what is wrong with it. */
  check?(scene: Scene, answer: Answer, attempt: Attempt): string | null
}

const PLANS = ['micro-1x', 'micro-1x', 'micro-1x', 'standard-4x']
const NOTHING: Attempt['headers'] = {}
/** Answers are kept for a day; then a key is a new one. */
const REPEATED_SECONDS = 23 * 3600

/** An attempt on one instance of these clients, if they have any. */
function onOneOf(clients: Client[], { random, amidst }: Scene, make: (id: string) => Attempt): Attempt | null {
  const all = clients.flatMap(({ instances }) => [...instances])
  const alive = all.filter(([, { status }]) => status !== 'terminating' && status !== 'terminated')
  const exposed = all.filter(([id]) => amidst.includes(id))
  if (exposed.length > 0 && chance(random, 70)) return make(pick(random, exposed)[0])
  const ids = alive.length > 0 && chance(random, 90) ? alive : all
  return ids.length === 0 ? null : make(pick(random, ids)[0])
}

/** What shows one instance: the client takes note of it. */
const shows: Call['check'] = ({ client }, { status, body }) =>
  status < 300 && 'version' in body ? notice(client, body) : null

/** An action on an instance of the client's. */
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

/** A change of an instance of the client's. */
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
      const name = `${client.mode}-${++client.made}`
      const body: Body = {
        ...{ region: 'us-east-1', plan: pick(random, PLANS), image: 'micro-linux', name },
        ready_timeout_seconds: 20 + random.integer(40),
        auto_recovery: chance(random, 80),
        termination_protection: chance(random, 10),
        network: { assign_public_ip: chance(random, 50) },
        tags: chance(random, 25) ? { simulate: pick(random, FAULTS) } : {},
      }
      const headers = chance(random, 60) ? { 'idempotency-key': name } : NOTHING
      const attempt: Attempt = { method: 'POST', url: '/v2/instances', body, headers }
      if (client.keys.length > 0 && chance(random, 40)) attempt.key = pick(random, client.keys).key
      else if (headers !== NOTHING) client.repeatable.push({ attempt, name, seconds, answered: null })
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
      return listed.map((shown) => notice(client, shown)).find((wrong) => wrong !== null) ?? null
    },
  },
  'get an instance of another tenant': {
    weight: 3,
    make: (scene) => onOneOf(scene.others, scene, (id) => ({ method: 'GET', url: `/v2/instances/${id}` })),
    check: refused,
  },
  'end an instance of another tenant': {
    weight: 2,
    make: (scene) => onOneOf(scene.others, scene, (id) => ({ method: 'DELETE', url: `/v2/instances/${id}` })),
    check: refused,
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
  end: {
    weight: 5,
    make: (scene) => onOneOf([scene.client], scene, (id) => ({ method: 'DELETE', url: `/v2/instances/${id}` })),
    check: shows,
  },
  'make a key': {
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
  'end a key': {
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

/** The creates that may be sent again. */
export const repeatables = ({ client, seconds }: Pick<Scene, 'client' | 'seconds'>): Repeatable[] =>
  client.repeatable.filter((each) => seconds - each.seconds < REPEATED_SECONDS)

/** One effect per Idempotency-Key, whatever was lost on the way. */
function checkCreated(scene: Scene, answer: Answer, attempt: Attempt): string | null {
  if (answer.status !== 201) return null
  const { client } = scene
  const id = answer.body.id as string
  const repeatable = client.repeatable.find((each) => each.attempt === attempt)
  if (repeatable?.answered && repeatable.answered !== id) {
    return `the Idempotency-Key ${repeatable.name} made ${repeatable.answered} and ${id}`
  }
  if (repeatable) repeatable.answered = id
  // A repetition returns the first response.
  return answer.headers['idempotent-replayed'] ? learn(client, answer.body) : notice(client, answer.body)
}

function learn(client: Client, shown: Body): null {
  if (!client.instances.has(shown.id as string)) notice(client, shown)
  return null
}

/** What is of another tenant is not there. */
export function refused(_scene: Scene, { status }: Answer, { url }: Attempt): string | null {
  return status === 404 ? null : `${url} of another tenant was answered with ${status}`
}
