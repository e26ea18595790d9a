/** From the names in a request to the rows that they mean. All field errors are reported at once. */
import type { Plan } from '../config.ts'
import type { Transaction } from '../db/database.ts'
import type { Deps, Region } from '../deps.ts'
import { findImage } from '../images/store.ts'
import { type FieldError, validationFailed } from '../lib/errors.ts'
import { findKeys } from '../ssh-keys/store.ts'
import { DEFAULT_SUBNET, findSubnet } from '../subnets/store.ts'
import type { CreateBody } from './schema.ts'

/** A new instance, with everything that its request names. `insertInstances` creates it. */
export type InstanceSpec = {
  body: CreateBody
  region: Region
  plan: Plan
  image: { id: string; ssh_user: string }
  subnet: { id: string; pool_id: string }
  ssh_public_keys: string[]
}

/** Reads what the body of a create names. Throws `validation_failed` with an error for each name that is unknown. */
export async function resolveCreate(
  tx: Transaction,
  deps: Pick<Deps, 'regions' | 'config'>,
  environmentId: string,
  body: CreateBody,
): Promise<InstanceSpec> {
  const errors: FieldError[] = []
  const region = deps.regions.find(({ id }) => id === body.region)
  if (!region) errors.push(unknown('/region', 'region', body.region))
  const plan = findPlan(deps, body.plan)
  if (!plan) errors.push(unknown('/plan', 'plan', body.plan))
  const image = await findImage(tx, environmentId, body.image)
  if (!image) errors.push(unknown('/image', 'image', body.image))
  const subnetId = body.network?.subnet_id ?? DEFAULT_SUBNET
  const subnet = await findSubnet(tx, environmentId, subnetId)
  if (!subnet) errors.push(unknown('/network/subnet_id', 'subnet', subnetId))
  if (subnet && region && subnet.region !== region.id) {
    errors.push({ pointer: '/network/subnet_id', code: 'mismatch', message: 'The subnet is in another region.' })
  }
  const ssh_public_keys = await keysFor(tx, environmentId, body.ssh_keys, errors)
  if (!region || !plan || !image || !subnet || errors.length > 0) throw validationFailed(errors)
  return { body, region, plan, image, subnet, ssh_public_keys }
}

/** Public keys by their IDs, or all default keys where the body names none. Errors point below `/ssh_keys`. */
export async function keysFor(
  tx: Transaction,
  environmentId: string,
  ids: string[] | undefined,
  errors: FieldError[],
): Promise<string[]> {
  const keys = await findKeys(tx, environmentId, ids ?? 'default')
  ids?.forEach((id, index) => {
    if (!keys.some((key) => key.id === id)) errors.push(unknown(`/ssh_keys/${index}`, 'SSH key', id, 'ssh_keys'))
  })
  return keys.map((key) => key.public_key)
}

/** The plan with this ID, if the operator offers it. */
export const findPlan = (deps: Pick<Deps, 'config'>, id: string): Plan | undefined =>
  deps.config.plans.find((plan) => plan.id === id)

/** The error for a name that the environment does not have. */
export function unknown(pointer: string, type: string, name: string, path = `${type}s`): FieldError {
  const message = `No ${type} ${JSON.stringify(name.slice(0, 64))} exists. GET /v2/${path} lists them.`
  return { pointer, code: 'unknown', message }
}
