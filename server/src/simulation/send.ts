/** Requests of clients, as the app meets them: without a socket, with the faults of a tick. */
import { CALLS, type Call, type Scene } from './calls.ts'
import { chance, pick, weighted } from './chance.ts'
import type { Answer, Attempt, Body, Client } from './client.ts'
import { during, type Fault, newTick } from './faults.ts'
import { fail, faultOf, type Run, restart } from './run.ts'
import { WEBHOOK_CALLS } from './webhook-calls.ts'

const ALL: Record<string, Call> = { ...CALLS, ...WEBHOOK_CALLS }
const weightsOf = (calls: Record<string, Call>) =>
  Object.entries(calls).map(([name, { weight }]) => [weight, name] as const)
const WEIGHTS = { with_receivers: weightsOf(ALL), without: weightsOf(CALLS) }

const standing = ({ workers }: Run): string[] =>
  workers.flatMap((worker) => worker.standing.map(({ claimed }) => claimed.id))

/** Any client; more often one whose instance is in the middle of a step. */
function anyClient(run: Run): Client {
  const ids = standing(run)
  const exposed = run.clients.filter(({ instances }) => ids.some((id) => instances.has(id)))
  return pick(run.random, exposed.length > 0 && chance(run.random, 50) ? exposed : run.clients)
}

/** What one client sees of the others. */
export function sceneOf(run: Run, client: Client): Scene {
  const others = run.clients.filter((other) => other !== client)
  const amidst = standing(run)
  const { receivers, clock } = run.world
  return { client, others, amidst, receivers, random: run.random, seconds: clock.seconds() }
}

/** Sends a request and checks its answer against the contract. Null: the process ended, and there is none. */
export async function send(
  run: Run,
  client: Client,
  { method, url, body, headers, key }: Attempt,
  fault: Fault | null,
): Promise<{ answer: Answer | null; told: string }> {
  const { app, checkAnswer } = run.world
  const sending = newTick(fault)
  const response = await during(sending, () =>
    app.inject({
      ...{ method, url },
      headers: {
        authorization: `Bearer ${key ?? client.key}`,
        ...(body && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body && { payload: JSON.stringify(body) }),
    }),
  )
  const fell = sending.fell ? ` (${sending.fell})` : ''
  if (sending.fell) run.faults++
  if (sending.isDead) {
    await restart(run, 0)
    return { answer: null, told: `no answer${fell}` }
  }
  const { statusCode: status } = response
  const seen = response.body === '' ? '' : (response.json() as Body)
  checkAnswer(method, url, { status, headers: response.headers as never, body: seen })
  const answer = { status, headers: response.headers, body: seen === '' ? {} : seen }
  const told = `${status} ${answer.body.code ?? answer.body.status ?? ''}${fell}`
  if (status >= 500 && !sending.fell) fail(run, 'API', `${method} ${url} was answered with ${told}`)
  return { answer, told }
}

/** One call of the list, by one of the clients. */
export async function callOfList(run: Run): Promise<string | null> {
  const name = weighted(run.random, run.options.receivers === false ? WEIGHTS.without : WEIGHTS.with_receivers)
  const scene = sceneOf(run, anyClient(run))
  const attempt = ALL[name]!.make(scene)
  return (
    attempt && `${name}: ${await askAs(run, name, scene, attempt, faultOf(run, ['error', 'error', 'error', 'crash']))}`
  )
}

/** Sends what a call of the list has made, and judges the answer by it. */
export async function askAs(run: Run, name: string, scene: Scene, attempt: Attempt, fault: Fault | null) {
  const { answer, told } = await send(run, scene.client, attempt, fault)
  const wrong = answer && answer.status < 500 ? ALL[name]!.check?.(scene, answer, attempt) : null
  if (wrong) fail(run, wrong.includes('another tenant') ? 'I7' : 'I4', wrong)
  return `${attempt.method} ${attempt.url} → ${told}`
}
