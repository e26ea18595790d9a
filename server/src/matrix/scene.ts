/** Where a workflow happens: an environment in which its things are made, brought to its beginning, and driven. */
import { caller } from '../http/testing.ts'
import { drive } from './drive.ts'
import { imageBody, type Workflow } from './workflows.ts'
import type { MatrixWorld, Worker } from './world.ts'

const HORIZON_SECONDS = 300
/** Requests that are made at the same time. */
const CLIENTS = 8
const SCOPES = [
  ...['instances:read', 'instances:write', 'images:read', 'images:write'],
  ...['webhooks:read', 'webhooks:write', 'deployments:read', 'scaling:read'],
]

export type Scene = Awaited<ReturnType<typeof createScene>>

/** An environment of its own for this workflow, with a key that has a budget. */
export async function createScene(world: MatrixWorld, workflow: Workflow) {
  const tenant = (await world.tenant())[workflow.mode]
  const { environment_id } = tenant.principal
  const limits = { max_instances: 100_000, max_vcpus: 100_000, ...workflow.budget }
  const body = { name: 'matrix', scopes: SCOPES, budget: limits }
  const made = await caller(world.app, tenant.key)('POST', '/v2/api_keys', body)
  const call = caller(world.app, made.body.key)
  let count = 0

  async function request([method, path, body]: ReturnType<NonNullable<Workflow['request']>>): Promise<void> {
    const { status, body: answer } = await call(method, path, body)
    if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`)
  }
  const post = async (path: string, body: object): Promise<string> => {
    const answer = await call('POST', path, body)
    if (answer.status !== 201) throw new Error(`POST ${path}: ${answer.status} ${JSON.stringify(answer.body)}`)
    return answer.body.id
  }
  async function create(): Promise<string> {
    const addImage = () => post('/v2/images', imageBody(`image-${++count}`, workflow.image !== 'refused'))
    if (workflow.thing === 'image') return addImage()
    if (workflow.thing === 'webhook')
      return post('/v2/webhooks', {
        url: `${await world.receiver()}${workflow.receiver ?? ''}`,
        events: ['instance.*'],
      })
    const image = workflow.image ? await addImage() : 'micro-linux'
    return post('/v2/instances', { region: 'us-east-1', plan: 'micro-1x', image, ...workflow.body })
  }
  async function states(ids: string[]): Promise<string[]> {
    const rows = await world.owner<{ id: string; state: string }[]>`
      select id, status as state from instances where id = any(${ids})
      union all select id, observed_state from images where id = any(${ids})
      union all select w.id, case when w.observed_disabled_reason is not null then 'disabled'
          when count(d.id) = 0 then 'idle'
        when count(d.id) = count(d.id) filter (where d.status = 'succeeded') then 'delivered' else 'pending' end
      from webhooks w left join webhook_deliveries d on d.webhook_id = w.id where w.id = any(${ids}) group by w.id`
    const found = new Map(rows.map(({ id, state }) => [id, state]))
    return ids.map((id) => found.get(id) ?? (workflow.thing === 'instance' ? 'forgotten' : 'gone'))
  }

  return {
    world,
    workflow,
    environment_id,
    request,
    states,
    nameOf: (id: string) => `${workflow.thing} ${id}`,
    removal: (id: string): ReturnType<NonNullable<Workflow['request']>> => ['DELETE', `/v2/${workflow.thing}s/${id}`],
    drive: (worker: Worker) => drive(world, worker, environment_id, workflow.horizon_seconds ?? HORIZON_SECONDS),
    /** Makes things and brings them to where the workflow begins. */
    async prepare(number: number): Promise<string[]> {
      const preparing = await world.worker('preparation')
      const ids = await inParallel(Array.from({ length: number }), create)
      for (const { request: before, until: state } of workflow.from ?? []) {
        if (before) await inParallel(ids, (id) => request(before(id)))
        if (state !== 'provisioning') await drive(world, preparing, environment_id, HORIZON_SECONDS)
        const wrong = (await states(ids)).filter((each) => each !== state)
        if (wrong.length > 0) throw new Error(`preparing ${workflow.name}: ${wrong[0]}, not ${state}`)
      }
      await preparing.engine.stop(1_000)
      return ids
    },
    /** The request, or the failure of the machine. */
    async act(ids: string[]): Promise<void> {
      await workflow.disturb?.(world.owner, environment_id)
      const { request: asked } = workflow
      if (asked) await inParallel(ids, (id) => request(asked(id)))
    },
  }
}

async function inParallel<T, R>(items: T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = []
  let next = 0
  const client = async () => {
    while (next < items.length) {
      const i = next++
      results[i] = await work(items[i]!)
    }
  }
  await Promise.all(Array.from({ length: CLIENTS }, client))
  return results
}
