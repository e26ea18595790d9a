/**
 * The request to delete a project. Its transaction marks the project, revokes its keys, closes its environments to requests
 * that are still running, and terminates its instances. The reconciler of the project does the rest.
 */
import type { Static } from 'typebox'
import { bindTo } from '../db/bound-query.ts'
import type { Query, Transaction } from '../db/database.ts'
import type { Deps } from '../deps.ts'
import { changeOthers, type Outbox } from '../events/outbox.ts'
import { checkIfMatch } from '../http/etag.ts'
import { terminateAll } from '../instances/store.ts'
import { revokeAllKeys } from '../keys/store.ts'
import { ApiError } from '../lib/errors.ts'
import { deleteAllWebhooks, lockAllWebhooks } from '../webhooks/store.ts'
import type { Counts, DeletionQuery, ProjectDeletion } from './schema.ts'
import { invalidState, lockProject, MODES, type Mode, type ProjectRow, showProject } from './store.ts'

/** Kind of the work keys of projects. They belong to the system environment, which outlives the project. */
const PROJECT_KEY = { kind: 'project', environment_id: 'env_system' }

/** The request: its environment, its ID and its parameters. */
export type Deletion = {
  id: string
  environment_id: string
  request_id: string
  if_match: string | undefined
  query: DeletionQuery
}

type Protected = Static<typeof ProjectDeletion>['protected_instances']
/** The project, its environments, and the instances with termination protection. */
type Checked = { project: ProjectRow; environments: Record<Mode, string>; protected_instances: Protected }

/** Locks the project and checks whether the request can be carried out, except for `force`. */
async function check(tx: Transaction, { id, environment_id, if_match, query }: Deletion): Promise<Checked> {
  const project = await lockProject(tx, id)
  if (query.name !== project.name && !(query.dry_run && query.name === undefined)) throw unconfirmed(project)
  checkIfMatch(if_match, showProject(project))
  const [first] = await tx<{ id: string }[]>`select id from projects order by ordinal limit 1`
  if (first!.id === id) throw invalidState('active', 'The first project, that of the operator, cannot be deleted.')
  const environments = await environmentsOf(tx, id)
  const protected_instances: Protected = []
  for (const environment of MODES) {
    await bindTo(tx, environments[environment])
    const found = await tx<{ id: string; name: string }[]>`
      select id, name from instances where environment_id = ${environments[environment]} and termination_protection
        and not wanted_gone and status <> 'terminated' order by ordinal`
    protected_instances.push(...found.map((each) => ({ ...each, environment })))
  }
  await bindTo(tx, environment_id)
  return { project, environments, protected_instances }
}

/** What the request would delete. Changes nothing. Throws like `requestDeletion`, except for protected instances. */
export async function previewDeletion(tx: Transaction, request: Deletion): Promise<Static<typeof ProjectDeletion>> {
  const { project, environments, protected_instances } = await check(tx, request)
  const counts = {} as Record<Mode, Counts>
  for (const mode of MODES) {
    await bindTo(tx, environments[mode])
    counts[mode] = await count(tx, environments[mode])
  }
  await bindTo(tx, request.environment_id)
  const isRefused = protected_instances.length > 0 && !request.query.force
  const would_answer = isRefused ? 409 : 202
  return {
    dry_run: true,
    action: 'deleteProject',
    would_answer,
    project: showProject(project),
    ...counts,
    protected_instances,
  }
}

/**
 * Begins the deletion; returns the project before and after, and the keys that were revoked. A project that is being deleted
 * stays unchanged. Throws `not_found`, `invalid_parameter` without the name, `precondition_failed`, `invalid_state` for the
 * first project, and `termination_protected` without `force`.
 */
export async function requestDeletion(
  tx: Transaction,
  outbox: Outbox,
  deps: Deps,
  request: Deletion,
): Promise<{ before: ProjectRow; after: ProjectRow; revoked: string[] }> {
  const { project, environments, protected_instances } = await check(tx, request)
  if (project.wanted_gone_at !== null) return { before: project, after: project, revoked: [] }
  if (protected_instances.length > 0 && !request.query.force) throw protectedError(protected_instances)
  await tx`update projects set wanted_gone_at = now() where id = ${project.id}`
  const revoked: string[] = []
  const parts = MODES.map((mode) => {
    const environment_id = environments[mode]
    return {
      owner: { environment_id, mode },
      async rows(other: Outbox) {
        revoked.push(...(await revokeAllKeys(tx, environment_id)))
        await terminateAll(tx, { config: deps.config, outbox: other }, environment_id, request.request_id)
        await lockAllWebhooks(tx, environment_id)
      },
      async environment(other: Outbox) {
        await tx`update environment_heads set closed = true where environment_id = ${environment_id}`
        await deleteAllWebhooks(tx, other, environment_id)
      },
    }
  })
  await changeOthers(tx, deps, { environment_id: request.environment_id, outbox }, parts)
  outbox.wakes.push({ ...PROJECT_KEY, id: project.id })
  return { before: project, after: await lockProject(tx, project.id), revoked }
}

/** The environments of a project, for the operator. */
async function environmentsOf(tx: Transaction, id: string): Promise<Record<Mode, string>> {
  const [row] = await tx<Record<Mode, string>[]>`select * from project_environments(${id})`
  return row!
}

async function count(query: Query, environmentId: string): Promise<Counts> {
  const [row] = await query<Counts[]>`
    with own as (
      select wanted_public_ip from instances where environment_id = ${environmentId} and status <> 'terminated')
    select (select count(*) from own) as instances, (select count(wanted_public_ip) from own) as public_ips,
      (select count(*) from images where environment_id = ${environmentId} and not wanted_gone) as images,
      (select count(*) from subnets where environment_id = ${environmentId}) as subnets,
      (select count(*) from ssh_keys where environment_id = ${environmentId}) as ssh_keys,
      (select count(*) from webhooks where environment_id = ${environmentId} and not wanted_gone) as webhooks,
      (select count(*) from api_keys where environment_id = ${environmentId}
        and coalesce(least(expires_at, retires_at, revoked_at), 'infinity') > now()) as api_keys,
      (select count(*) from events where environment_id = ${environmentId}) as events`
  return row!
}

function unconfirmed({ name }: ProjectRow): ApiError {
  const detail = `Repeat the name of the project as a confirmation: ?name=${encodeURIComponent(name)}. With ?dry_run=true, the response lists what would be deleted.`
  return new ApiError('invalid_parameter', detail, {
    errors: [{ parameter: 'name', code: 'confirmation', message: detail }],
  })
}

function protectedError(protected_instances: Protected): ApiError {
  const named = protected_instances.map(({ id, environment }) => `${id} (${environment})`)
  const shown = named.length > 10 ? `${named.slice(0, 10).join(', ')} and ${named.length - 10} more` : named.join(', ')
  const detail = `These instances have termination protection: ${shown}. Set it to false, or repeat the request with force=true to delete them.`
  return new ApiError('termination_protected', detail, { extensions: { protected_instances } })
}
