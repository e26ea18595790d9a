import { allocateAddress } from '../addresses/store.ts'
import { reserveBudget } from '../budgets/store.ts'
import type { Plan } from '../config.ts'
import type { Transaction } from '../db/database.ts'
import { environmentNow } from '../db/environment-now.ts'
import type { Deps, Region } from '../deps.ts'
import { ensureImport, findImage } from '../images/store.ts'
import type { Principal } from '../keys/principal.ts'
import { ApiError, type FieldError, validationFailed } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import { seal } from '../lib/secret-box.ts'
import { reserveCapacity } from '../regions/store.ts'
import { findKeys } from '../ssh-keys/store.ts'
import { DEFAULT_SUBNET, findSubnet } from '../subnets/store.ts'
import { initialFields } from './fields.ts'
import type { InstanceRow } from './row.ts'
import type { CreateBody } from './schema.ts'
import { type InstanceContext, insert } from './store.ts'

/** Ports of the public address that every guest gets. */
const USUAL_PORTS = [22, 80, 443]

/**
 * Creates an instance in the caller's transaction: checks, reserves (capacity, addresses), writes the row with its event
 * and wakes the reconciler. All that is wrong with the body is told at once.
 */
export async function createInstance(
  tx: Transaction,
  context: Deps & InstanceContext,
  principal: Principal,
  body: CreateBody,
  requestId: string,
): Promise<InstanceRow> {
  const { region, plan, image, subnet, keys } = await resolve(context, tx, principal, body)
  const id = newId('inst', context.random)
  const budget = await reserveBudget(tx, context.config, principal.budget_id, { instances: 1, vcpus: plan.vcpus })
  await reserveCapacity(tx, context.config, region, principal.mode, null, plan)
  if (principal.mode === 'live') await ensureImport(tx, context.outbox, image.id)
  const private_ip = await allocateAddress(tx, subnet.pool_id, id)
  if (!private_ip) {
    throw new ApiError('capacity_exhausted', `The subnet ${subnet.id} has no free address left. Use another subnet.`, {
      extensions: { scope: 'region', retryable: false, alternatives: [] },
    })
  }
  const public_ip = body.network?.assign_public_ip ? await assignPublicAddress(tx, principal, region.id, id) : null
  const now = await environmentNow(tx, principal.environment_id)
  const fields = initialFields(body, id)
  return await insert(tx, context, {
    id,
    environment_id: principal.environment_id,
    mode: principal.mode,
    region: region.id,
    hostname: body.hostname ?? hostnameFrom(fields.name) ?? id.replace('_', '-'),
    image: body.image,
    image_id: image.id,
    subnet_id: subnet.id,
    private_ip,
    mac: macOf(private_ip),
    ports: [...new Set([...USUAL_PORTS, ...(body.network?.ports ?? [])])].sort((a, b) => a - b),
    ssh_public_keys: keys,
    ssh_user: image.ssh_user,
    user_data: body.user_data
      ? seal(context.secrets.seal_key, Buffer.from(body.user_data, 'utf8'), context.random)
      : null,
    deployment_id: null,
    ...fields,
    ready_timeout_seconds: body.ready_timeout_seconds ?? 300,
    created_at: now,
    updated_at: now,
    expires_at: budget.ttl_seconds === null ? null : new Date(now.getTime() + budget.ttl_seconds * 1000),
    created_by: principal.key_id,
    budget_id: principal.budget_id,
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
    wanted_request_id: requestId,
    ...NOTHING_OBSERVED,
  })
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

/** Everything that the body names, or all the errors about it. */
async function resolve(deps: Deps, tx: Transaction, principal: Principal, body: CreateBody) {
  const errors: FieldError[] = []
  const unknown = (pointer: string, message: string) => errors.push({ pointer, code: 'unknown', message })
  const region = deps.regions.find((r) => r.id === body.region)
  if (!region) unknown('/region', `There is no region ${quote(body.region)}; GET /v2/regions lists them.`)
  const plan = findPlan(deps, body.plan)
  if (!plan) unknown('/plan', `There is no plan ${quote(body.plan)}; GET /v2/plans lists them.`)
  const image = await findImage(tx, principal.environment_id, body.image)
  if (!image) unknown('/image', `There is no image ${quote(body.image)}; GET /v2/images lists them.`)
  const subnetId = body.network?.subnet_id ?? DEFAULT_SUBNET
  const subnet = await findSubnet(tx, principal.environment_id, subnetId)
  if (!subnet) unknown('/network/subnet_id', `There is no subnet ${quote(subnetId)}; GET /v2/subnets lists them.`)
  if (subnet && region && subnet.region !== region.id) {
    errors.push({ pointer: '/network/subnet_id', code: 'mismatch', message: 'The subnet is in another region.' })
  }
  const keys = await keysFor(tx, principal.environment_id, body.ssh_keys, errors)
  if (!region || !plan || !image || !subnet || errors.length > 0) throw validationFailed(errors)
  return { region, plan, image, subnet, keys }
}

/** Public keys by their ids; left out: all default keys. Errors point below `/ssh_keys`. */
export async function keysFor(
  tx: Transaction,
  environmentId: string,
  ids: string[] | undefined,
  errors: FieldError[],
): Promise<string[]> {
  const keys = await findKeys(tx, environmentId, ids ?? 'default')
  ids?.forEach((id, index) => {
    if (keys.some((key) => key.id === id)) return
    const message = `There is no SSH key ${quote(id)}; GET /v2/ssh_keys lists them.`
    errors.push({ pointer: `/ssh_keys/${index}`, code: 'unknown', message })
  })
  return keys.map((key) => key.public_key)
}

/** The plan of this name, if the operator offers it. */
export const findPlan = (deps: Pick<Deps, 'config'>, id: string): Plan | undefined =>
  deps.config.plans.find((p) => p.id === id)

/** Takes a public address for an instance: live ones from the region's pool, test ones from the environment's. */
export async function assignPublicAddress(
  tx: Transaction,
  principal: Principal,
  region: Region['id'],
  instanceId: string,
): Promise<string> {
  const pool = principal.mode === 'live' ? `public:live:${region}` : `public:${principal.environment_id}`
  const address = await allocateAddress(tx, pool, instanceId)
  if (address) return address
  throw new ApiError('capacity_exhausted', 'There is no free public address. Terminate an instance that has one.', {
    extensions: { scope: 'public_ip', retryable: true, alternatives: ['Create it without assign_public_ip.'] },
  })
}

/** A name that is an RFC 1123 label can be the hostname; others cannot. */
function hostnameFrom(name: string): string | null {
  return /^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$/.test(name) ? name.toLowerCase() : null
}

/** Locally administered, and unique in the subnet because the address is. */
function macOf(ip: string): string {
  return ['02', '00', ...ip.split('.').map((part) => Number(part).toString(16).padStart(2, '0'))].join(':')
}

const quote = (text: string): string => JSON.stringify(text.slice(0, 64))
