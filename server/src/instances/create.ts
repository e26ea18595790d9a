/**
 * Creates instances in the caller's transaction: reserves budget, capacity and IP addresses, writes the rows, wakes their
 * reconcilers and emits `instance.created`. Each table takes one statement, however many instances there are.
 */
import { allocateAddresses } from '../addresses/store.ts'
import { reserveBudget } from '../budgets/store.ts'
import type { Transaction } from '../db/database.ts'
import { environmentNow } from '../db/environment-now.ts'
import type { Deps } from '../deps.ts'
import { ensureImport } from '../images/store.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import { CapacityExhausted } from '../lib/insufficient-capacity.ts'
import { seal } from '../lib/secret-box.ts'
import { isOpenTo, reserveCapacity, unfilteredMessage } from '../regions/store.ts'
import { initialFields } from './fields.ts'
import { type InstanceSpec, resolveCreate } from './resolve.ts'
import type { InstanceRow } from './row.ts'
import type { CreateBody } from './schema.ts'
import { type InstanceContext, insertRows, type NewRow } from './store.ts'

/** Ports of the public address that every guest gets. */
const USUAL_PORTS = [22, 80, 443]

/** Creates the instance that a request describes. Throws `validation_failed`, and what `insertInstances` throws. */
export async function createInstance(
  tx: Transaction,
  context: CreateContext & Pick<Deps, 'regions'>,
  principal: Principal,
  body: CreateBody,
  request_id: string,
): Promise<InstanceRow> {
  const spec = await resolveCreate(tx, context, principal.environment_id, body)
  const [row] = await insertInstances(tx, context, [spec], { ...principal, deployment_id: null, request_id })
  return row!
}

/** What creates the instances: the environment, and the key, budget, deployment and request, where there is one. */
export type Origin = {
  environment_id: string
  mode: 'live' | 'test'
  key_id: string | null
  budget_id: string | null
  deployment_id: string | null
  request_id: string | null
}

export type CreateContext = Pick<Deps, 'config' | 'random' | 'secrets'> & InstanceContext

/**
 * Creates all of these instances, or none. Throws BudgetExceeded, CapacityExhausted, `invalid_state` where the region is not
 * open to the project, and QuotaExceeded at the end of the transaction.
 */
export async function insertInstances(
  tx: Transaction,
  context: CreateContext,
  specs: readonly InstanceSpec[],
  origin: Origin,
): Promise<InstanceRow[]> {
  const vcpus = specs.reduce((sum, { plan }) => sum + plan.vcpus, 0)
  const budget = await reserveBudget(tx, context.config, origin.budget_id, { instances: specs.length, vcpus })
  for (const group of groupBy(specs, ({ region }) => region.id)) {
    const plans = group.map(({ plan }) => plan)
    const { region } = group[0]!
    if (!(await isOpenTo(tx, context.config, region, origin)))
      throw new ApiError('invalid_state', unfilteredMessage(region.id))
    await reserveCapacity(tx, context.config, region, origin.mode, null, plans)
  }
  if (origin.mode === 'live') {
    for (const id of new Set(specs.map(({ image }) => image.id))) await ensureImport(tx, context.outbox, id)
  }
  const placed = await allocateFor(
    tx,
    specs.map((spec) => ({ spec, id: newId('inst', context.random) })),
    origin,
  )
  const now = await environmentNow(tx, origin.environment_id)
  const expires_at = budget.ttl_seconds === null ? null : new Date(now.getTime() + budget.ttl_seconds * 1000)
  return insertRows(
    tx,
    context,
    placed.map((each) => ({ ...newRow(context, each, origin, now), expires_at })),
  )
}

type Placed = { spec: InstanceSpec; id: string; private_ip: string; public_ip: string | null }

/** Private addresses of all instances first, then public ones: every transaction allocates in this order. */
async function allocateFor(
  tx: Transaction,
  created: { spec: InstanceSpec; id: string }[],
  origin: Origin,
): Promise<Placed[]> {
  const privateIps = new Map<string, string>()
  for (const group of groupBy(created, ({ spec }) => spec.subnet.pool_id)) {
    const { pool_id, id } = group[0]!.spec.subnet
    const allocated = await allocateAddresses(
      tx,
      pool_id,
      group.map((each) => each.id),
    )
    if (!allocated) throw subnetExhausted(id)
    for (const [instance, ip] of allocated) privateIps.set(instance, ip)
  }
  const publicIps = new Map<string, string>()
  const assigned = created.filter(({ spec }) => spec.body.network?.assign_public_ip)
  for (const group of groupBy(assigned, ({ spec }) => spec.region.id)) {
    const ids = group.map(({ id }) => id)
    const allocated = await assignPublicAddresses(tx, origin, group[0]!.spec.region.id, ids)
    for (const [instance, ip] of allocated) publicIps.set(instance, ip)
  }
  return created.map(({ spec, id }) => {
    return { spec, id, private_ip: privateIps.get(id)!, public_ip: publicIps.get(id) ?? null }
  })
}

/**
 * Allocates a public address for each of these instances: live ones from the region's pool, test ones from the
 * environment's. Throws CapacityExhausted.
 */
export async function assignPublicAddresses(
  tx: Transaction,
  { environment_id, mode }: Pick<Origin, 'environment_id' | 'mode'>,
  regionId: string,
  instanceIds: readonly string[],
): Promise<Map<string, string>> {
  const pool = mode === 'live' ? `public:live:${regionId}` : `public:${environment_id}`
  const allocated = await allocateAddresses(tx, pool, instanceIds)
  if (allocated) return allocated
  throw new CapacityExhausted('No public IP address is free. Terminate an instance that has one.', {
    scope: 'public_ip',
    retryable: true,
    alternatives: ['Create it without assign_public_ip.'],
  })
}

function subnetExhausted(id: string): CapacityExhausted {
  return new CapacityExhausted(`The subnet ${id} has no free IP address. Use another subnet.`, {
    scope: 'region',
    retryable: false,
    alternatives: [],
  })
}

function newRow(context: CreateContext, placed: Placed, origin: Origin, now: Date): Omit<NewRow, 'expires_at'> {
  const { spec, id, private_ip, public_ip } = placed
  const { body, region, plan, image, subnet } = spec
  const fields = initialFields(body, id)
  return {
    id,
    environment_id: origin.environment_id,
    mode: origin.mode,
    region: region.id,
    hostname: body.hostname ?? hostnameFrom(fields.name) ?? id.replace('_', '-'),
    image: body.image,
    image_id: image.id,
    subnet_id: subnet.id,
    private_ip,
    mac: macOf(private_ip),
    ports: [...new Set([...USUAL_PORTS, ...(body.network?.ports ?? [])])].sort((a, b) => a - b),
    ssh_public_keys: spec.ssh_public_keys,
    ssh_user: image.ssh_user,
    user_data: body.user_data
      ? seal(context.secrets.seal_key, Buffer.from(body.user_data, 'utf8'), context.random)
      : null,
    deployment_id: origin.deployment_id,
    ...fields,
    ready_timeout_seconds: body.ready_timeout_seconds ?? 300,
    created_at: now,
    updated_at: now,
    created_by: origin.key_id,
    budget_id: origin.budget_id,
    wanted_power: 'running',
    wanted_gone: false,
    wanted_run: 1,
    wanted_stop: 0,
    wanted_disk: 1,
    wanted_plan: plan.id,
    wanted_vcpus: plan.vcpus,
    wanted_memory_bytes: plan.memory_bytes,
    wanted_disk_bytes: plan.disk_bytes,
    wanted_size_before: null,
    wanted_public_ip: public_ip,
    wanted_activity: 'provisioning',
    wanted_at: now,
    wanted_stop_timeout_seconds: 60,
    wanted_request_id: origin.request_id,
    ...NOTHING_OBSERVED,
  }
}

const NOTHING_OBSERVED = {
  observed_power: 'absent',
  observed_run: 0,
  observed_stop: 0,
  observed_ready: false,
  observed_ready_run: 0,
  observed_disk: 0,
  observed_ready_disk: 0,
  observed_vcpus: 0,
  observed_memory_bytes: 0,
  observed_disk_bytes: 0,
  observed_public_ip: null,
  observed_ports: [],
  observed_started_at: null,
  observed_ready_at: null,
  observed_boot: null,
  observed_failures: null,
  observed_recovering: false,
  observed_recovery_attempts: 0,
  observed_recoveries: 0,
  observed_problem: null,
  observed_expired: false,
  recovery: null,
  ready_at: null,
  terminated_at: null,
} satisfies Partial<InstanceRow>

/** The hostname that follows from a name; null unless the name is an RFC 1123 label. */
function hostnameFrom(name: string): string | null {
  return /^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/.test(name) ? name.toLowerCase() : null
}

/** A locally administered MAC address, unique in the subnet because the IP address is. */
function macOf(ip: string): string {
  return ['02', '00', ...ip.split('.').map((part) => Number(part).toString(16).padStart(2, '0'))].join(':')
}

/** Groups in the order of their first member. */
function groupBy<T>(all: readonly T[], keyOf: (each: T) => string): T[][] {
  return [...Map.groupBy(all, keyOf).values()]
}
