/** THE LIST of workflows: all the ways by which a thing's reconciler comes to its steps. */
import type { Sql } from '../db/database.ts'
import { REFUSED } from './world.ts'

/** A request about the thing, by its id. */
export type Request = (id: string) => [method: string, path: string, body?: unknown]

export type Workflow = {
  name: string
  /** The resource whose passes have the faults. */
  thing: 'instance' | 'image' | 'webhook'
  mode: 'live' | 'test'
  /** What the create has besides the usual. */
  body?: object
  /** An instance's image is added right before it, and comes or is refused; else it is there. */
  image?: 'comes' | 'refused'
  /** A webhook's receiver wants no more; else it takes everything. */
  receiver?: 'gone'
  budget?: object
  /** Requests that come before, and the status that each leads to. The create is the first. */
  from?: { request?: Request; until: string }[]
  /** The request whose passes have the faults; omitted: the create. */
  request?: Request
  /** Or what happens to the machines of an environment. */
  disturb?: (owner: Sql, environmentId: string) => PromiseLike<unknown>
  /** The state in which it has to end: of an instance its status, or `forgotten`; of an image what is observed, or `gone`; of a webhook `idle`, `pending`, `delivered`, `disabled` or `gone`. */
  goal: string
  /** Another end that some faults may leave as the only true one. */
  or?: string
  /** How far time may move until then. */
  horizon_seconds?: number
}

const action = (name: string, body?: object): Request => {
  return (id) => ['POST', `/v2/instances/${id}/actions/${name}`, body]
}
const put = (body: object, query = ''): Request => {
  return (id) => ['PUT', `/v2/instances/${id}${query}`, body]
}
const terminate: Request = (id) => ['DELETE', `/v2/instances/${id}`]
const RUNNING = [{ until: 'running' }]
const STOPPED = [...RUNNING, { request: action('stop'), until: 'stopped' }]
const TERMINATED = [{ until: 'provisioning' }, { request: terminate, until: 'terminated' }]
const PUBLIC = { network: { assign_public_ip: true } }
const simulate = (fault: string) => ({ tags: { simulate: fault } })

/** A failure of the machine, with the hint of its driver. */
const becomes = (state: object) => (owner: Sql, environmentId: string) =>
  owner`
  with changed as (
    update simulated_machines set machine = machine || ${owner.json(state)} where environment_id = ${environmentId})
  update work set due_at = environment_now(environment_id), wakes = wakes + 1 where environment_id = ${environmentId}`
const crash = becomes({ power: 'crashed' })

const instance = { thing: 'instance', mode: 'test' } as const
const image = { thing: 'image', mode: 'live' } as const
const webhook = { thing: 'webhook', mode: 'test' } as const

export const WORKFLOWS: Workflow[] = [
  { ...instance, name: 'create', body: PUBLIC, goal: 'running' },
  { ...instance, name: 'create, refused', body: simulate('create_fails'), goal: 'failed' },
  { ...instance, name: 'create, image comes', mode: 'live', image: 'comes', goal: 'running' },
  { ...instance, name: 'create, image refused', mode: 'live', image: 'refused', goal: 'failed' },
  {
    ...{ ...instance, name: 'create, never ready', goal: 'failed' },
    ...{ body: { ...simulate('never_ready'), ready_timeout_seconds: 10 }, horizon_seconds: 30 },
  },
  { ...instance, name: 'stop', from: RUNNING, request: action('stop'), goal: 'stopped' },
  {
    ...{ ...instance, name: 'stop a deaf guest', body: simulate('ignores_power_down') },
    ...{ from: RUNNING, request: action('stop', { timeout_seconds: 3 }), goal: 'stopped' },
  },
  {
    ...{ ...instance, name: 'power off from inside', body: simulate('guest_powers_off'), goal: 'stopped' },
    // Where it was off before anybody saw it up.
    or: 'failed',
  },
  { ...instance, name: 'start', body: PUBLIC, from: STOPPED, request: action('start'), goal: 'running' },
  { ...instance, name: 'reboot', from: RUNNING, request: action('reboot'), goal: 'running' },
  { ...instance, name: 'resize at rest', from: STOPPED, request: put({ plan: 'standard-4x' }), goal: 'stopped' },
  {
    ...{ ...instance, name: 'resize running', from: RUNNING, goal: 'running' },
    request: put({ plan: 'standard-4x' }, '?allow_reboot=true'),
  },
  { ...instance, name: 'rebuild', body: PUBLIC, from: RUNNING, request: action('rebuild'), goal: 'running' },
  { ...instance, name: 'public address', from: RUNNING, request: put(PUBLIC), goal: 'running' },
  {
    ...{ ...instance, name: 'no public address', body: PUBLIC, from: RUNNING, goal: 'running' },
    request: put({ network: { assign_public_ip: false } }),
  },
  { ...instance, name: 'terminate', body: PUBLIC, from: RUNNING, request: terminate, goal: 'terminated' },
  {
    ...{ ...instance, name: 'time is up', budget: { ttl_seconds: 600 } },
    ...{ from: RUNNING, goal: 'terminated', horizon_seconds: 900 },
  },
  { ...instance, name: 'forget', from: TERMINATED, goal: 'forgotten', horizon_seconds: 90_000 },
  { ...instance, name: 'recover', body: PUBLIC, from: RUNNING, disturb: crash, goal: 'running' },
  {
    ...{ ...instance, name: 'recover from a panic', from: RUNNING, goal: 'running' },
    disturb: becomes({ power: 'paused', trouble: 'panic' }),
  },
  {
    ...{ ...instance, name: 'recover from a disk error', from: RUNNING, goal: 'running' },
    disturb: becomes({ power: 'paused', trouble: 'disk_error' }),
  },
  {
    ...{ ...instance, name: 'crash without recovery', body: { auto_recovery: false } },
    ...{ from: RUNNING, disturb: crash, goal: 'failed' },
  },
  { ...image, name: 'import', goal: 'present' },
  { ...image, name: 'import, refused', image: 'refused', goal: 'failed' },
  {
    ...{ ...image, name: 'remove an image', from: [{ until: 'present' }], goal: 'gone' },
    request: (id) => ['DELETE', `/v2/images/${id}`],
  },
  {
    ...{ ...webhook, name: 'deliver an event', from: [{ until: 'idle' }], goal: 'delivered' },
    request: (id) => ['POST', `/v2/webhooks/${id}/ping`],
  },
  {
    ...{ ...webhook, name: 'disable an endpoint that wants no more', receiver: 'gone' },
    ...{ from: [{ until: 'idle' }], goal: 'disabled' },
    request: (id) => ['POST', `/v2/webhooks/${id}/ping`],
  },
  {
    ...{ ...webhook, name: 'remove a webhook', from: [{ until: 'idle' }], goal: 'gone' },
    request: (id) => ['DELETE', `/v2/webhooks/${id}`],
  },
]

/** The body that adds an image. */
export const imageBody = (name: string, comes: boolean): object => {
  const sha256 = 'a'.repeat(64)
  return { name, url: `https://images.example.com/${comes ? 'good' : REFUSED}.qcow2`, sha256, ready_signal: 'guest' }
}
