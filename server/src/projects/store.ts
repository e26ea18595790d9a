/**
 * Projects: tenants with separate keys, networks and environments. The routes require the scope `admin`, and row-level
 * security returns all projects only to keys of the first project.
 */
import type { Static } from 'typebox'
import { bindTo } from '../db/bound-query.ts'
import type { Query, Sql, Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { checkIfMatch } from '../http/etag.ts'
import { type Window, windowSql } from '../http/list.ts'
import type { Principal } from '../keys/principal.ts'
import type { Scope } from '../keys/scopes.ts'
import { newProjectKeys, PROJECT_SCOPES, storeKey } from '../keys/store.ts'
import { ApiError, notFound } from '../lib/errors.ts'
import { newId } from '../lib/id.ts'
import type { Quotas } from '../lib/quota.ts'
import type { Random } from '../lib/random.ts'
import { timestamp } from '../lib/timestamp.ts'
import { ensureDefaultSubnet } from '../subnets/store.ts'
import type { Project, ProjectCreate, ProjectUpdateBody } from './schema.ts'

export const MODES = ['live', 'test'] as const
export type Mode = (typeof MODES)[number]
/** Reserved for benchmarks (RFC 2544) and not routed; each test environment has all of it. */
const TEST_PUBLIC_RANGE = '198.18.0.0/15'

export type ProjectRow = {
  id: string
  name: string
  ordinal: number
  created_at: Date
  /** When its deletion was requested; null: it is active. */
  wanted_gone_at: Date | null
  quotas: Record<Mode, Partial<Quotas>> | null
}

/** A row as the API returns it. */
export function showProject({ id, name, wanted_gone_at, quotas, created_at }: ProjectRow): Static<typeof Project> {
  const status = wanted_gone_at === null ? 'active' : 'deleting'
  return { id, name, status, quotas: { live: {}, test: {}, ...quotas }, created_at: timestamp(created_at) }
}

export async function listProjects(sql: Sql, window: Window): Promise<ProjectRow[]> {
  return sql<ProjectRow[]>`select *, project_quotas(id) as quotas from projects where true ${windowSql(sql, window)}`
}

/** Locks and reads a project. Throws `not_found`. */
export async function lockProject(tx: Transaction, id: string): Promise<ProjectRow> {
  await tx`select from projects where id = ${id} for no key update`
  return getProject(tx, id)
}

/** Throws `not_found`. */
export async function getProject(query: Query, id: string): Promise<ProjectRow> {
  const [row] = await query<ProjectRow[]>`select *, project_quotas(id) as quotas from projects where id = ${id}`
  if (!row) throw notFound('project', id)
  return row
}

/** Initial resources of a project. */
export type NewProject = {
  regions: string[]
  keys: Record<Mode, string>
  key_name: string
  scopes: readonly Scope[]
  pepper: Uint8Array
}

/**
 * Creates the missing environments, default subnets, pools and keys of a project. Idempotent: existing ones, also revoked
 * keys, are left unchanged. Afterwards the transaction is bound to the last of the environments.
 * @returns the IDs of the environments
 */
export async function ensureProject(
  tx: Transaction,
  random: Random,
  project: string,
  { regions, keys, key_name, scopes, pepper }: NewProject,
): Promise<Record<Mode, string>> {
  const environments = {} as Record<Mode, string>
  for (const mode of MODES) {
    const [known] = await tx<{ id: string }[]>`
      select id from environments where project_id = ${project} and mode = ${mode}`
    const environment_id = known?.id ?? newId('env', random)
    environments[mode] = environment_id
    await bindTo(tx, environment_id)
    if (!known) {
      await tx`insert into environments (id, project_id, mode) values (${environment_id}, ${project}, ${mode})`
    }
    for (const region of regions) await ensureDefaultSubnet(tx, random, { environment_id, mode }, region)
    await storeKey(tx, { pepper }, random, keys[mode], { environment_id, mode, name: key_name, scopes })
    if (mode === 'live') continue
    await tx`insert into address_pools (id, environment_id, range)
      values (${`public:${environment_id}`}, ${environment_id}, ${TEST_PUBLIC_RANGE}) on conflict do nothing`
  }
  return environments
}

/** Inserts the row of a new project. */
export async function insertProject(tx: Transaction, random: Random, name: string): Promise<ProjectRow> {
  const [row] = await tx<ProjectRow[]>`
    insert into projects (id, name, created_at) values (${newId('proj', random)}, ${name}, now()) returning *`
  return row!
}

/** Creates a project and its two keys, which have all scopes except `admin`. */
export async function createProject(
  tx: Transaction,
  deps: Pick<Deps, 'random' | 'secrets' | 'regions'>,
  { environment_id }: Pick<Principal, 'environment_id'>,
  { name, quotas = {} }: Static<typeof ProjectCreate>,
): Promise<{ row: ProjectRow; keys: Record<Mode, string> }> {
  const keys = newProjectKeys(deps.random)
  const row = await insertProject(tx, deps.random, name)
  const regions = deps.regions.map((region) => region.id)
  const { pepper } = deps.secrets
  const initial = { regions, keys, key_name: 'first key', scopes: PROJECT_SCOPES, pepper }
  await ensureProject(tx, deps.random, row.id, initial)
  await bindTo(tx, environment_id)
  await setQuotas(tx, row.id, quotas)
  return { row: await getProject(tx, row.id), keys }
}

/** Throws `not_found`, `precondition_failed`, and `invalid_state` for a project that is being deleted. */
export async function updateProject(
  tx: Transaction,
  id: string,
  { name, quotas = {} }: ProjectUpdateBody,
  ifMatch: string | undefined,
): Promise<{ before: ProjectRow; after: ProjectRow }> {
  const before = await lockProject(tx, id)
  checkIfMatch(ifMatch, showProject(before))
  if (before.wanted_gone_at !== null) throw invalidState('deleting', 'The project is being deleted.')
  await tx`update projects set name = ${name ?? before.name} where id = ${id}`
  await setQuotas(tx, id, quotas)
  return { before, after: await getProject(tx, id) }
}

/** 409 for a project whose status does not allow a request. */
export function invalidState(current_status: string, detail: string): ApiError {
  return new ApiError('invalid_state', detail, { extensions: { current_status, allowed_actions: [] } })
}

async function setQuotas(tx: Transaction, id: string, quotas: Partial<Record<Mode, Partial<Quotas>>>): Promise<void> {
  for (const mode of MODES) {
    const quota = quotas[mode]
    if (quota) await tx`select set_project_quota(${id}, ${mode}, ${tx.json(quota)}::jsonb)`
  }
}
