/**
 * The matrix of the keys that span tenants: the orphan sweeps, the periodic jobs and the deletion of a project. Each runs three
 * passes (an orphan is removed in the second one), with each fault at each of its points. Before them, a test creates the
 * fault that the key repairs; afterwards the audit must find nothing.
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
const DELETED_PROJECT = 'proj_deleted'
/** Partitions of the request log: from yesterday to three days ahead. */
const DAYS = 5

/** The keys that span tenants, as names of subjects such as `sweep test:us-east-1`. */
export async function systemKeys(world: MatrixWorld): Promise<string[]> {
  await wakeAtStart(world.deps)
  const keys = await world.owner<{ name: string }[]>`
    select kind || ' ' || id as name from work where environment_id = ${SYSTEM} and kind <> 'image' order by name`
  keys.push({ name: `project ${DELETED_PROJECT}` })
  // Each one runs alone.
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
  const repair = REPAIRS[/^(sweep|project)/.exec(name)?.[0] ?? name]
  if (!repair) throw new Error(`REPAIRS has no entry for ${name}`)
  const damage = () => repair.damage(world.owner, scene)
  const findingsAfter = async () => {
    await runInstance(world, scene)
    return remaining(world, name, scene, repair)
  }
  await damage()
  const passes = await recordPasses(world, name, pass)
  const left = await findingsAfter()
  if (left.length > 0) throw new Error(`the run without a fault of ${name} left ${left.join('; ')}`)
  const cells = cellsOf(passes).filter(({ fault }) => fault !== 'changed_meanwhile')
  const findings: string[] = []
  for (const cell of cells) {
    const at = `${name}: ${cell.point} ${cell.nth}, ${cell.fault}`
    await damage()
    const subject = faults.arm(name, cell)
    await throughFaults(world, SYSTEM, [subject], pass)
    if (!subject.fired) findings.push(`${at}: the fault did not occur`)
    for (const line of await findingsAfter()) findings.push(`${at}: ${line}`)
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

/** The damage that one key repairs, and whether it is still there. */
type Repair = {
  damage(owner: Sql, scene: Scene): PromiseLike<unknown>
  isDamaged(owner: Sql, scene: Scene): Promise<boolean>
}

const rows = async (statement: PromiseLike<{ count: number }>): Promise<boolean> => (await statement).count > 0
const orphanOf = ({ instance }: Scene) => instance.replace('inst_', 'gone_')

const REPAIRS: Record<string, Repair> = {
  sweep: {
    damage: (owner, scene) => owner`insert into simulated_machines (id, environment_id, machine)
      values (${orphanOf(scene)}, ${scene.environment_id}, '{"power":"stopped","run":0,"ports":[]}')`,
    isDamaged: (owner, scene) => rows(owner`select from simulated_machines where id = ${orphanOf(scene)}`),
  },
  project: {
    damage: insertDeletedProject,
    isDamaged: (owner) =>
      rows(owner`
      select from projects where id = ${DELETED_PROJECT} union all
      select from environments where project_id = ${DELETED_PROJECT} union all
      select from simulated_machines where id = 'inst_deleted'`),
  },
  'job requeue-projects': {
    damage: async (owner) => {
      await insertDeletedProject(owner)
      await owner`delete from work where kind = 'project'`
    },
    isDamaged: async (owner) => !(await rows(owner`select from work where kind = 'project'`)),
  },
  'job recount-budgets': {
    damage: (owner, { environment_id }) =>
      owner`update budgets set used_instances = 3 where environment_id = ${environment_id}`,
    isDamaged: (owner, { environment_id }) =>
      rows(owner`select from budgets where environment_id = ${environment_id} and used_instances <> 1`),
  },
  'job report-expiring-keys': {
    // Another end each time, so that each is to be reported once.
    damage: (owner, { environment_id }) => owner`
      update api_keys set expires_at = coalesce(expires_at, now() + interval '1 day') + interval '1 second'
      where environment_id = ${environment_id} and name = 'ci'`,
    isDamaged: (owner, { environment_id }) =>
      rows(owner`
      select from api_keys k where k.environment_id = ${environment_id} and k.name = 'ci' and 1 <> (
        select count(*) from events e where e.resource_id = k.id and e.type = 'api_key.expiring'
          and e.data #>> '{object,expires_at}' = to_char(k.expires_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))`),
  },
  'job requeue-instances': {
    damage: (owner, { instance }) => owner`delete from work where kind = 'instance' and id = ${instance}`,
    isDamaged: async (owner, { instance }) =>
      !(await rows(owner`select from work where kind = 'instance' and id = ${instance}`)),
  },
  'job release-addresses': {
    damage: (owner, scene) => owner`insert into addresses (pool_id, address, instance_id, environment_id)
      select id, '198.19.0.9', ${orphanOf(scene)}, ${scene.environment_id}
      from address_pools where id = ${`public:${scene.environment_id}`}`,
    isDamaged: (owner, scene) => rows(owner`select from addresses where instance_id = ${orphanOf(scene)}`),
  },
  'job requeue-webhooks': {
    damage: (owner, { environment_id, secret }) => owner`
      insert into webhooks (environment_id, id, url, events, description, wanted_enabled, wanted_gone, secret,
        key_id, created_at, updated_at)
      select ${environment_id}, 'whk_old', 'https://example.com', '{*}', '', true, true, ${secret}, id, now(), now()
      from api_keys where environment_id = ${environment_id} limit 1`,
    isDamaged: (owner) => rows(owner`select from webhooks where id = 'whk_old'`),
  },
  'job purge-responses': {
    damage: (owner) => owner`
      insert into idempotency_keys (environment_id, method, path, key, request_digest, status, headers, body, created_at)
      values (${SYSTEM}, 'POST', '/', 'old', '', 200, '{}', null, now() - interval '25 hours') on conflict do nothing`,
    isDamaged: (owner) => rows(owner`select from idempotency_keys where key = 'old'`),
  },
  'job purge-recoveries': {
    damage: (owner) => owner`
      insert into recoveries (environment_id, instance_id, number, cause, detected_at, attempts)
      values (${SYSTEM}, 'old', 1, 'process_died', '2000-01-01', 1) on conflict do nothing`,
    isDamaged: (owner) => rows(owner`select from recoveries where instance_id = 'old'`),
  },
  'job purge-events': {
    damage: (owner) => owner`
      insert into events (environment_id, sequence, id, type, resource_type, resource_id, created_at, data)
      values (${SYSTEM}, 1, 'old', 'instance.created', 'instance', 'old', '2000-01-01', '{}') on conflict do nothing`,
    isDamaged: (owner) => rows(owner`select from events where id = 'old'`),
  },
  'job purge-deliveries': {
    damage: (owner) => owner`
      insert into webhook_deliveries (environment_id, id, webhook_id, event_id, event_sequence, event_type, cause, status,
        created_at, recorded_at)
      values (${SYSTEM}, 'old', 'old', 'old', 1, 'webhook.ping', 'ping', 'succeeded', '2000-01-01', '2000-01-01')
      on conflict do nothing`,
    isDamaged: (owner) => rows(owner`select from webhook_deliveries where id = 'old'`),
  },
  'job rotate-request-log': { damage: dropLastDay, isDamaged: async (owner) => (await daysOf(owner)) !== 2 * DAYS },
}

/** A project whose deletion was requested, with a machine of a terminated instance. */
async function insertDeletedProject(owner: Sql): Promise<void> {
  await owner`
    with project as (
      insert into projects (id, name, created_at, wanted_gone_at) values (${DELETED_PROJECT}, 'p', now(), '2000-01-01')
      on conflict do nothing returning id)
    insert into environments (id, project_id, mode)
    select 'env_deleted_' || mode, id, mode from project, unnest(array['live', 'test']) as mode`
  await owner`
    insert into address_pools (id, environment_id, range) values ('deleted', 'env_deleted_test', '10.0.0.0/24')
    on conflict do nothing`
  await owner`
    insert into subnets (environment_id, id, region, name, range, pool_id, created_at)
    values ('env_deleted_test', 'sub_deleted', 'us-east-1', 's', '10.0.0.0/24', 'deleted', now()) on conflict do nothing`
  await owner`
    insert into instances (id, environment_id, mode, region, name, hostname, image, image_id, subnet_id, private_ip, mac,
      ports, ssh_public_keys, ssh_user, tags, auto_recovery, termination_protection, ready_timeout_seconds, created_at,
      updated_at, wanted_power, wanted_run, wanted_disk, wanted_plan, wanted_vcpus, wanted_memory_bytes, wanted_disk_bytes,
      wanted_activity, wanted_at, status, wanted_gone, terminated_at)
    select 'inst_deleted', 'env_deleted_test', 'test', 'us-east-1', 'x', 'x', 'x', i.id, 'sub_deleted', '10.0.0.2',
      '02:00:00:00:00:01', '{22}', '{}', 'root', '{}', true, false, 300, now(), now(), 'running', 1, 1, 'x', 1, 1, 1,
      'provisioning', now(), 'terminated', true, now()
    from images i where i.environment_id is null limit 1 on conflict do nothing`
  await owner`
    insert into simulated_machines (id, environment_id, machine)
    values ('inst_deleted', 'env_deleted_test', '{"power":"stopped","run":0,"ports":[]}') on conflict do nothing`
  await owner`
    insert into work (kind, id, environment_id, due_at) values ('project', ${DELETED_PROJECT}, ${SYSTEM}, 'infinity')
    on conflict do nothing`
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

/** Reconciles the instance, whose key was woken. */
async function runInstance(world: MatrixWorld, scene: Scene): Promise<void> {
  const worker = await world.worker('third')
  await settle(world, worker, scene.environment_id)
  await worker.engine.stop(1_000)
}

/** The damage that remains after the passes of this key, and what the audit finds. */
async function remaining({ owner }: MatrixWorld, name: string, scene: Scene, repair: Repair): Promise<string[]> {
  const lines = (await repair.isDamaged(owner, scene))
    ? [`${name} has repaired nothing`]
    : await audit(owner, scene.environment_id)
  const failing = await owner`
    select from work where kind || ' ' || id = ${name} and (leased_until is not null or attempts > 0 or last_error is not null)`
  return failing.count > 0 ? [...lines, 'the key is leased or failing'] : lines
}
