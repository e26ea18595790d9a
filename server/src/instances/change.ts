/** Desired changes of an instance: update, actions, termination. Each locks the row, checks it, and saves the change. */

import { checkInBudget, reserveBudget } from '../budgets/store.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { ensureImport, findImage } from '../images/store.ts'
import type { Principal } from '../keys/principal.ts'
import { isSameJson } from '../lib/canonical-json.ts'
import { ApiError, type FieldError, notFound, validationFailed } from '../lib/errors.ts'
import { seal } from '../lib/secret-box.ts'
import { reserveCapacity } from '../regions/store.ts'
import { assignPublicAddresses } from './create.ts'
import * as desired from './desired.ts'
import { type DesiredChange, invalidState } from './desired.ts'
import { pickFields } from './fields.ts'
import { TERMINATED_TTL_SECONDS } from './present.ts'
import { findPlan, keysFor, unknown } from './resolve.ts'
import { type InstanceRow, isTerminating } from './row.ts'
import type { ActionBody, RebuildBody, UpdateBody } from './schema.ts'
import { type InstanceContext, lock, save, wakeInstance } from './store.ts'

/** A change of one instance: the principal, the instance, and the preconditions of the request. */
export type Target = {
  principal: Principal
  id: string
  request_id: string
  /** Throws 412 when the client's `If-Match` does not match this version. */
  checkVersion(version: number): void
}

/** An instance before and after a change; the same row twice when nothing changes. */
export type Changed = { before: InstanceRow; after: InstanceRow }

/** Locks the row, saves the change that `decide` returns, and wakes the reconciler. An empty change does nothing. */
async function applyChange(
  tx: Transaction,
  context: InstanceContext,
  target: Target,
  decide: (row: InstanceRow) => Promise<DesiredChange | null> | DesiredChange | null,
): Promise<Changed> {
  const locked = await lock(tx, target.principal.environment_id, target.id)
  if (!locked || isPurged(locked.row, locked.now)) throw notFound('instance', target.id)
  const { row, now } = locked
  await checkInBudget(tx, target.principal.budget_id, row.budget_id)
  target.checkVersion(row.version)
  const change = await decide(row)
  if (!change || Object.keys(change).length === 0) return { before: row, after: row }
  wakeInstance(context.outbox, row)
  const after = await save(
    tx,
    context,
    row,
    { ...change, ...originColumns(change, target, now) },
    now,
    target.request_id,
  )
  return { before: row, after }
}

/** The request and the time from which the engine carries out this change; only for changes that it must carry out. */
function originColumns(change: DesiredChange, target: Target, now: Date): DesiredChange {
  const power: (keyof DesiredChange)[] = ['wanted_run', 'wanted_stop', 'wanted_disk', 'wanted_gone']
  return {
    ...(power.some((column) => column in change) ? { wanted_at: now } : {}),
    ...(Object.keys(change).some((column) => column.startsWith('wanted_'))
      ? { wanted_request_id: target.request_id }
      : {}),
  }
}

const isPurged = (row: InstanceRow, now: Date): boolean =>
  row.terminated_at !== null && now.getTime() - row.terminated_at.getTime() > TERMINATED_TTL_SECONDS * 1000

/** PUT and PATCH: fields that the body omits are unchanged. */
export function updateInstance(
  tx: Transaction,
  context: Deps & InstanceContext,
  target: Target,
  body: UpdateBody,
  options: { allow_reboot: boolean },
): Promise<Changed> {
  return applyChange(tx, context, target, async (row) => {
    if (isTerminating(row)) throw invalidState(row, 'It is being terminated and can no longer be changed.')
    refuseImmutable(row, body)
    const change: DesiredChange = pickFields(body)
    if (body.plan !== undefined && body.plan !== row.wanted_plan) {
      Object.assign(change, await resize(context, tx, target, row, body, options))
    }
    const assign = body.network?.assign_public_ip
    if (assign === true && !row.wanted_public_ip) {
      const assigned = await assignPublicAddresses(tx, target.principal, row.region, [row.id])
      change.wanted_public_ip = assigned.get(row.id)!
    }
    if (assign === false && row.wanted_public_ip) {
      // The reservation is released when the machine no longer has the address; see `observe` and the orphan sweep.
      change.wanted_public_ip = null
    }
    if (body.desired_status === 'stopped') Object.assign(change, desired.stop(row, 60))
    if (body.desired_status === 'running') Object.assign(change, desired.start(row))
    return Object.fromEntries(
      Object.entries(change).filter(([key, value]) => !isSameJson(row[key as keyof InstanceRow], value)),
    )
  })
}

async function resize(
  deps: Deps,
  tx: Transaction,
  target: Target,
  row: InstanceRow,
  body: UpdateBody,
  options: { allow_reboot: boolean },
): Promise<DesiredChange> {
  const plan = findPlan(deps, body.plan!)
  if (!plan) {
    throw validationFailed([unknown('/plan', 'plan', body.plan!)])
  }
  const change = desired.resize(row, plan, { ...options, stops: body.desired_status === 'stopped' })
  const region = deps.regions.find((r) => r.id === row.region)!
  await reserveBudget(tx, deps.config, row.budget_id, { instances: 0, vcpus: plan.vcpus - row.wanted_vcpus })
  await reserveCapacity(tx, deps.config, region, target.principal.mode, row, [plan])
  return change
}

function refuseImmutable(row: InstanceRow, body: UpdateBody): void {
  const ports = body.network?.ports?.map((p) => (typeof p === 'number' ? p : p.port))
  const given: [string, unknown, unknown][] = [
    ['/id', body.id, row.id],
    ['/region', body.region, row.region],
    ['/image', body.image, row.image],
    ['/image_id', body.image_id, row.image_id],
    ['/hostname', body.hostname, row.hostname],
    ['/network/subnet_id', body.network?.subnet_id, row.subnet_id],
    ['/network/ports', ports && JSON.stringify([...ports].sort((a, b) => a - b)), JSON.stringify(row.ports)],
  ]
  const errors: FieldError[] = given
    .filter(([, value, is]) => value !== undefined && value !== is)
    .map(([pointer]) => {
      return { pointer, code: 'immutable_field', message: `${pointer} cannot be changed; leave it out.` }
    })
  if (errors.length > 0) throw new ApiError('immutable_field', errors.map((e) => e.message).join(' '), { errors })
}

/** POST …/actions/{start|stop|reboot}. Does nothing when the instance is already in that state. */
export function act(
  tx: Transaction,
  context: Deps & InstanceContext,
  target: Target,
  action: 'start' | 'stop' | 'reboot',
  body: ActionBody,
): Promise<Changed> {
  return applyChange(tx, context, target, (row) => {
    const timeout = body.force ? 0 : (body.timeout_seconds ?? 60)
    if (action === 'start') return desired.start(row)
    return action === 'stop' ? desired.stop(row, timeout) : desired.reboot(row, timeout)
  })
}

/** POST …/actions/rebuild: creates a new disk from the image; ID and addresses are unchanged. */
export function rebuild(
  tx: Transaction,
  context: Deps & InstanceContext,
  target: Target,
  body: RebuildBody,
): Promise<Changed> {
  return applyChange(tx, context, target, async (row) => {
    const renewed = desired.rebuild(row)
    const errors: FieldError[] = []
    const imageName = body.image ?? row.image
    const image = body.image
      ? await findImage(tx, target.principal.environment_id, body.image)
      : await findImage(tx, target.principal.environment_id, row.image_id)
    if (!image) {
      errors.push(unknown('/image', 'image', imageName))
    }
    const keys = body.ssh_keys
      ? await keysFor(tx, target.principal.environment_id, body.ssh_keys, errors)
      : row.ssh_public_keys
    if (!image || errors.length > 0) throw validationFailed(errors)
    if (row.mode === 'live') await ensureImport(tx, context.outbox, image.id)
    const user_data = body.user_data
      ? seal(context.secrets.seal_key, Buffer.from(body.user_data, 'utf8'), context.random)
      : row.user_data
    return {
      image: imageName,
      image_id: image.id,
      ssh_user: image.ssh_user,
      ssh_public_keys: keys,
      user_data: body.user_data === '' ? null : user_data,
      ...renewed,
    }
  })
}

/** DELETE. Idempotent. */
export function terminate(tx: Transaction, context: InstanceContext, target: Target): Promise<Changed> {
  return applyChange(tx, context, target, desired.terminate)
}
