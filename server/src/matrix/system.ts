/**
 * The matrix of the keys that span tenants: the orphan sweeps and the periodic jobs. Each key that a start wakes runs
 * three passes (an orphan is removed in the second one), with each fault at each of its points; before, an
 * environment is put into the disorder that a sweep mends, and afterwards the audit must find nothing.
 */
import type { Sql } from '../db/database.ts'
import { caller } from '../http/testing.ts'
import { seal } from '../lib/secret-box.ts'
import { wakeAtStart } from '../reconcilers.ts'
import { audit } from '../testing/audit.ts'
import { settle, throughFaults } from './drive.ts'
import { cellsOf, recordPasses } from './passes.ts'
import type { Report } from './run.ts'
import type { MatrixWorld, Worker } from './world.ts'

const SYSTEM = 'env_system'
const PASSES = 3
/** From yesterday, and three ahead. */
const DAYS = 5

/** The keys that span tenants, as names of subjects such as `sweep test:us-east-1`. */
export async function systemKeys(world: MatrixWorld): Promise<string[]> {
  await wakeAtStart(world.deps)
  const keys = await world.owner<{ name: string }[]>`
    select kind || ' ' || id as name from work where environment_id = ${SYSTEM} and kind <> 'image' order by name`
  // Each runs alone.
  await world.owner`update work set due_at = 'infinity' where environment_id = ${SYSTEM}`
  return keys.map(({ name }) => name)
}

/** Runs the cells of one key; in a world of its own, because these keys span all tenants. */
export async function runSystemKey(world: MatrixWorld, name: string): Promise<Report> {
  const { owner, faults } = world
  const pass = async (worker: Worker) => {
    for (let i = 0; i < PASSES; i++) {
      await owner`update work set due_at = environment_now(environment_id) where kind || ' ' || id = ${name}`
      await settle(world, worker, SYSTEM)
    }
    await owner`update work set due_at = 'infinity' where kind || ' ' || id = ${name} and leased_until is null`
  }
  const scene = await createScene(world, name.startsWith('sweep live') ? 'live' : 'test')
  const duty = DUTIES[name.startsWith('sweep') ? 'sweep' : name]
  if (!duty) throw new Error(`no disorder is written here for ${name}`)
  const disturb = () => duty.disturb(world.owner, scene)
  const leftInDisorder = async () => {
    await restScene(world, scene)
    return whatIsLeft(world, name, scene, duty)
  }
  await disturb()
  const passes = await recordPasses(world, name, pass)
  const left = await leftInDisorder()
  if (left.length > 0) throw new Error(`the run without a fault of ${name} left ${left.join('; ')}`)
  const cells = cellsOf(passes).filter(({ fault }) => fault !== 'changed_meanwhile')
  const findings: string[] = []
  for (const cell of cells) {
    const at = `${name}: ${cell.point} ${cell.nth}, ${cell.fault}`
    await disturb()
    const subject = faults.arm(name, cell)
    await throughFaults(world, SYSTEM, [subject], pass)
    if (!subject.fired) findings.push(`${at}: the fault did not fall`)
    for (const line of await leftInDisorder()) findings.push(`${at}: ${line}`)
  }
  return { cells, findings }
}

/** `secret` is an encrypted secret of a webhook. */
type Scene = { environment_id: string; instance: string; secret: Uint8Array }

/** An environment with an instance that a budget counts. */
async function createScene(world: MatrixWorld, mode: 'live' | 'test'): Promise<Scene> {
  const { key, principal } = (await world.tenant())[mode]
  const scopes = ['instances:read', 'instances:write']
  const made = await caller(world.app, key)('POST', '/v2/api_keys', {
    name: 'ci',
    scopes,
    budget: { max_instances: 5 },
  })
  const body = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
  const { body: instance } = await caller(world.app, made.body.key)('POST', '/v2/instances', body)
  const { secrets, random } = world.deps
  const secret = seal(secrets.seal_key, Buffer.from('secret'), random)
  return { environment_id: principal.environment_id, instance: instance.id, secret }
}

/** The disorder that one key repairs, and what shows that it has not. */
type Duty = {
  disturb(owner: Sql, scene: Scene): PromiseLike<unknown>
  isLeft(owner: Sql, scene: Scene): Promise<boolean>
}

const rows = async (statement: PromiseLike<{ count: number }>): Promise<boolean> => (await statement).count > 0
const orphanOf = ({ instance }: Scene) => instance.replace('inst_', 'gone_')

const DUTIES: Record<string, Duty> = {
  sweep: {
    disturb: (owner, scene) => owner`insert into simulated_machines (id, environment_id, machine)
      values (${orphanOf(scene)}, ${scene.environment_id}, '{"power":"stopped","run":0,"ports":[]}')`,
    isLeft: (owner, scene) => rows(owner`select from simulated_machines where id = ${orphanOf(scene)}`),
  },
  'job recount-budgets': {
    disturb: (owner, { environment_id }) =>
      owner`update budgets set used_instances = 3 where environment_id = ${environment_id}`,
    isLeft: (owner, { environment_id }) =>
      rows(owner`select from budgets where environment_id = ${environment_id} and used_instances <> 1`),
  },
  'job requeue-instances': {
    disturb: (owner, { instance }) => owner`delete from work where kind = 'instance' and id = ${instance}`,
    isLeft: async (owner, { instance }) =>
      !(await rows(owner`select from work where kind = 'instance' and id = ${instance}`)),
  },
  'job release-addresses': {
    disturb: (owner, scene) => owner`insert into addresses (pool_id, address, instance_id, environment_id)
      select id, '198.19.0.9', ${orphanOf(scene)}, ${scene.environment_id}
      from address_pools where id = ${`public:${scene.environment_id}`}`,
    isLeft: (owner, scene) => rows(owner`select from addresses where instance_id = ${orphanOf(scene)}`),
  },
  'job requeue-webhooks': {
    disturb: (owner, { environment_id, secret }) => owner`
      insert into webhooks (environment_id, id, url, events, description, wanted_enabled, wanted_gone, secret,
        key_id, created_at, updated_at)
      select ${environment_id}, 'whk_old', 'https://example.com', '{*}', '', true, true, ${secret}, id, now(), now()
      from api_keys where environment_id = ${environment_id} limit 1`,
    isLeft: (owner) => rows(owner`select from webhooks where id = 'whk_old'`),
  },
  'job purge-responses': {
    disturb: (owner) => owner`
      insert into idempotency_keys (environment_id, method, path, key, request_digest, status, headers, body, created_at)
      values (${SYSTEM}, 'POST', '/', 'old', '', 200, '{}', null, now() - interval '25 hours') on conflict do nothing`,
    isLeft: (owner) => rows(owner`select from idempotency_keys where key = 'old'`),
  },
  'job purge-recoveries': {
    disturb: (owner) => owner`
      insert into recoveries (environment_id, instance_id, number, cause, detected_at, attempts)
      values (${SYSTEM}, 'old', 1, 'process_died', '2000-01-01', 1) on conflict do nothing`,
    isLeft: (owner) => rows(owner`select from recoveries where instance_id = 'old'`),
  },
  'job purge-events': {
    disturb: (owner) => owner`
      insert into events (environment_id, sequence, id, type, resource_type, resource_id, created_at, data)
      values (${SYSTEM}, 1, 'old', 'instance.created', 'instance', 'old', '2000-01-01', '{}') on conflict do nothing`,
    isLeft: (owner) => rows(owner`select from events where id = 'old'`),
  },
  'job purge-deliveries': {
    disturb: (owner) => owner`
      insert into webhook_deliveries (environment_id, id, webhook_id, event_id, event_sequence, event_type, cause, status,
        created_at, recorded_at)
      values (${SYSTEM}, 'old', 'old', 'old', 1, 'webhook.ping', 'ping', 'succeeded', '2000-01-01', '2000-01-01')
      on conflict do nothing`,
    isLeft: (owner) => rows(owner`select from webhook_deliveries where id = 'old'`),
  },
  'job rotate-request-log': { disturb: dropLastDay, isLeft: async (owner) => (await daysOf(owner)) !== 2 * DAYS },
}

const daysOf = async (owner: Sql): Promise<number> =>
  (await owner`select from pg_inherits where inhparent in ('requests'::regclass, 'spans'::regclass)`).count

async function dropLastDay(owner: Sql): Promise<void> {
  for (const table of ['requests', 'spans']) {
    const [last] = await owner<{ name: string; days: number }[]>`
      select max(inhrelid::regclass::text) as name, count(*) as days from pg_inherits where inhparent = ${table}::regclass`
    if (last!.days === DAYS) await owner`drop table ${owner(last!.name)}`
  }
}

/** Runs the instance, whose key was woken. */
async function restScene(world: MatrixWorld, scene: Scene): Promise<void> {
  const worker = await world.worker('third')
  await settle(world, worker, scene.environment_id)
  await worker.engine.stop(1_000)
}

/** What is still in disorder, of what this key repairs. */
async function whatIsLeft({ owner }: MatrixWorld, name: string, scene: Scene, duty: Duty): Promise<string[]> {
  const lines = (await duty.isLeft(owner, scene))
    ? [`${name} has left its disorder`]
    : await audit(owner, scene.environment_id)
  const failing = await owner`
    select from work where kind || ' ' || id = ${name} and (leased_until is not null or attempts > 0 or last_error is not null)`
  return failing.count > 0 ? [...lines, 'the key is leased or failing'] : lines
}
