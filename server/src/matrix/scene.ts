/** The scene of a workflow: an environment in which its resources are created, brought to the initial state, and driven. */
import { caller } from '../http/testing.ts'
import { drive } from './drive.ts'
import { KINDS } from './kinds.ts'
import type { Creation, Kind, Request, Workflow } from './workflow.ts'
import type { MatrixWorld, Worker } from './world.ts'

const HORIZON_SECONDS = 300
/** Requests that are sent at the same time. */
const CLIENTS = 8
const SCOPES = [...new Set(KINDS.flatMap(({ scopes }) => scopes))]

export type Scene = Awaited<ReturnType<typeof createScene>>

/** An environment of its own for this workflow, with a key that has a budget. */
export async function createScene(world: MatrixWorld, kind: Kind, workflow: Workflow) {
  const tenant = (await world.tenant())[workflow.mode]
  const { environment_id } = tenant.principal
  const limits = { max_instances: 100_000, max_vcpus: 100_000, ...workflow.budget }
  const body = { name: 'matrix', scopes: SCOPES, budget: limits }
  const made = await caller(world.app, tenant.key)('POST', '/v2/api_keys', body)
  const call = caller(world.app, made.body.key)
  let count = 0

  async function send(method: string, path: string, body?: unknown): Promise<{ id: string }> {
    const response = await call(method, path, body)
    if (response.status < 300) return response.body
    throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(response.body)}`)
  }
  const creation: Creation = {
    post: async (path, body) => (await send('POST', path, body)).id,
    receiverUrl: world.receiverUrl,
    nextNumber: () => ++count,
  }
  async function states(ids: string[]): Promise<string[]> {
    const rows = await kind.states(world.owner, ids)
    const found = new Map(rows.map(({ id, state }) => [id, state]))
    return ids.map((id) => found.get(id) ?? kind.absent)
  }
  const sendToAll = (ids: string[], request: Request) => inParallel(ids, (id) => send(...request(id)))

  return {
    world,
    kind,
    workflow,
    environment_id,
    states,
    nameOf: (id: string) => `${kind.name} ${id}`,
    delete: async (id: string) => void (await send('DELETE', `${kind.path}/${id}`)),
    drive: (worker: Worker) => drive(world, worker, environment_id, workflow.horizon_seconds ?? HORIZON_SECONDS),
    /** Creates resources and brings them to the state before the request. */
    async prepare(number: number): Promise<string[]> {
      const ids = await inParallel(Array.from({ length: number }), () => workflow.create(creation))
      if (!workflow.from) return ids
      // No engine runs before this line: it would reconcile the new resources before their faults are armed.
      const preparing = await world.worker('preparation')
      for (const { request, until: state } of workflow.from) {
        if (request) await sendToAll(ids, request)
        if (state !== 'provisioning') await drive(world, preparing, environment_id, HORIZON_SECONDS)
        const others = (await states(ids)).filter((each) => each !== state)
        if (others.length > 0) throw new Error(`preparing ${workflow.name}: ${others[0]}, not ${state}`)
      }
      await preparing.engine.stop(1_000)
      return ids
    },
    /** Sends the request, or makes the machines fail. */
    async act(ids: string[]): Promise<void> {
      await workflow.fail?.(world.owner, environment_id)
      if (workflow.request) await sendToAll(ids, workflow.request)
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
