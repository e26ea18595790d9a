import type { Sql } from '../../db/database.ts'
import type { Creation, Kind, Request, Workflow } from '../workflow.ts'
import { addImage } from './image.ts'

/** Creates an instance; its body has these fields besides the usual ones. */
const createInstance =
  (body: object = {}) =>
  ({ post }: Creation): Promise<string> =>
    post('/v2/instances', { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', ...body })

/** Creates an instance whose image is added immediately before it. */
const createWithImage = (imports: boolean) => async (scene: Creation) =>
  createInstance({ image: await addImage(scene, imports) })(scene)

const act = (name: string, body?: object): Request => {
  return (id) => ['POST', `/v2/instances/${id}/actions/${name}`, body]
}
const put = (body: object, query = ''): Request => {
  return (id) => ['PUT', `/v2/instances/${id}${query}`, body]
}
const terminate: Request = (id) => ['DELETE', `/v2/instances/${id}`]
const simulate = (fault: string) => ({ tags: { simulate: fault } })

const PUBLIC = { network: { assign_public_ip: true } }
const RUNNING = [{ until: 'running' }]
const STOPPED = [...RUNNING, { request: act('stop'), until: 'stopped' }]
const TERMINATED = [{ until: 'provisioning' }, { request: terminate, until: 'terminated' }]

/** A failure of the machines, with the hint of their driver. */
const machinesBecome = (state: object) => (owner: Sql, environmentId: string) =>
  owner`
  with changed as (
    update simulated_machines set machine = machine || ${owner.json(state)} where environment_id = ${environmentId})
  update work set due_at = environment_now(environment_id), wakes = wakes + 1 where environment_id = ${environmentId}`

const workflow = { mode: 'test', create: createInstance() } as const
const running = { ...workflow, from: RUNNING, goal: 'running' } as const

const creates: Workflow[] = [
  { ...workflow, name: 'create an instance', create: createInstance(PUBLIC), goal: 'running' },
  {
    ...workflow,
    name: 'create an instance that the host rejects',
    create: createInstance(simulate('create_fails')),
    goal: 'failed',
  },
  {
    ...workflow,
    name: 'create an instance while its image is imported',
    mode: 'live',
    create: createWithImage(true),
    goal: 'running',
  },
  {
    ...workflow,
    name: 'create an instance whose image cannot be imported',
    mode: 'live',
    create: createWithImage(false),
    goal: 'failed',
  },
  {
    ...workflow,
    name: 'create an instance whose guest is never ready',
    create: createInstance({ ...simulate('never_ready'), ready_timeout_seconds: 10 }),
    goal: 'failed',
    horizon_seconds: 30,
  },
]

const changes: Workflow[] = [
  { ...running, name: 'stop', request: act('stop'), goal: 'stopped' },
  {
    ...running,
    name: 'stop a guest that ignores the power button',
    create: createInstance(simulate('ignores_power_down')),
    request: act('stop', { timeout_seconds: 3 }),
    goal: 'stopped',
  },
  {
    ...workflow,
    name: 'a guest powers off',
    create: createInstance(simulate('guest_powers_off')),
    goal: 'stopped',
    // The guest was off before a pass observed that it was ready.
    or: 'failed',
  },
  { ...running, name: 'start', create: createInstance(PUBLIC), from: STOPPED, request: act('start') },
  { ...running, name: 'reboot', request: act('reboot') },
  {
    ...running,
    name: 'resize a stopped instance',
    from: STOPPED,
    request: put({ plan: 'standard-4x' }),
    goal: 'stopped',
  },
  { ...running, name: 'resize a running instance', request: put({ plan: 'standard-4x' }, '?allow_reboot=true') },
  { ...running, name: 'rebuild', create: createInstance(PUBLIC), request: act('rebuild') },
  { ...running, name: 'assign a public address', request: put(PUBLIC) },
  {
    ...running,
    name: 'release the public address',
    create: createInstance(PUBLIC),
    request: put({ network: { assign_public_ip: false } }),
  },
]

const ends: Workflow[] = [
  { ...running, name: 'terminate', create: createInstance(PUBLIC), request: terminate, goal: 'terminated' },
  {
    ...running,
    name: 'an instance expires',
    budget: { ttl_seconds: 600 },
    goal: 'terminated',
    horizon_seconds: 900,
  },
  {
    ...workflow,
    name: 'delete the row of a terminated instance',
    from: TERMINATED,
    goal: 'forgotten',
    horizon_seconds: 90_000,
  },
]

const failures: Workflow[] = [
  {
    ...running,
    name: 'recover from a crash',
    create: createInstance(PUBLIC),
    fail: machinesBecome({ power: 'crashed' }),
  },
  { ...running, name: 'recover from a panic', fail: machinesBecome({ power: 'paused', trouble: 'panic' }) },
  { ...running, name: 'recover from a disk error', fail: machinesBecome({ power: 'paused', trouble: 'disk_error' }) },
  {
    ...running,
    name: 'a crash without automatic recovery',
    create: createInstance({ auto_recovery: false }),
    fail: machinesBecome({ power: 'crashed' }),
    goal: 'failed',
  },
]

export const instance: Kind = {
  name: 'instance',
  path: '/v2/instances',
  scopes: ['instances:read', 'instances:write', 'images:read', 'images:write'],
  states: (owner, ids) => owner<{ id: string; state: string }[]>`
    select id, status as state from instances where id = any(${ids})`,
  absent: 'forgotten',
  deleted: 'terminated',
  workflows: [...creates, ...changes, ...ends, ...failures],
}
