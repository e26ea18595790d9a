/** Requests of clients, sent to the app without a socket, with the faults of a tick. */
import { CALLS, type Call, type Scene } from './calls.ts'
import { chance, pick, weighted } from './chance.ts'
import type { Attempt, Body, Client, Response } from './client.ts'
import { during, type Fault, newTick } from './faults.ts'
import { fail, faultOf, type Run, restart } from './run.ts'
import { WEBHOOK_CALLS } from './webhook-calls.ts'

const ALL: Record<string, Call> = { ...CALLS, ...WEBHOOK_CALLS }
const weightsOf = (calls: Record<string, Call>) =>
  Object.entries(calls).map(([name, { weight }]) => [weight, name] as const)
const WEIGHTS = { with_receivers: weightsOf(ALL), without: weightsOf(CALLS) }

/** IDs of the keys whose passes are paused. */
const pausedKeys = ({ workers }: Run): string[] =>
  workers.flatMap((worker) => worker.paused.map(({ claimed }) => claimed.id))

/** Any client; more often one with an instance whose pass is paused. */
function anyClient(run: Run): Client {
  const ids = pausedKeys(run)
  const exposed = run.clients.filter(({ instances }) => ids.some((id) => instances.has(id)))
  return pick(run.random, exposed.length > 0 && chance(run.random, 50) ? exposed : run.clients)
}

/** The scene in which this client chooses its next request. */
export function sceneOf(run: Run, client: Client): Scene {
  const others = run.clients.filter((other) => other !== client)
  const pausedIds = pausedKeys(run)
  const { receivers, clock } = run.world
  return { client, others, pausedIds, receivers, random: run.random, seconds: clock.seconds() }
}

/** Sends a request and checks its response against the OpenAPI document. The response is null if the process ended. */
export async function send(
  run: Run,
  client: Client,
  { method, url, body, headers, key }: Attempt,
  fault: Fault | null,
): Promise<{ response: Response | null; summary: string }> {
  const { app, checkResponse } = run.world
  const sending = newTick(fault)
  const sent = await during(sending, () =>
    app.inject({
      method,
      url,
      headers: {
        authorization: `Bearer ${key ?? client.key}`,
        ...(body && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body && { payload: JSON.stringify(body) }),
    }),
  )
  const faultAt = sending.faultAt ? ` (${sending.faultAt})` : ''
  if (sending.faultAt) run.faults++
  if (sending.processEnded) {
    await restart(run, 0)
    return { response: null, summary: `no response${faultAt}` }
  }
  const { statusCode: status, headers: responseHeaders } = sent
  const responseBody = sent.body === '' ? '' : (sent.json() as Body)
  checkResponse(method, url, { status, headers: responseHeaders as never, body: responseBody })
  const response = { status, headers: responseHeaders, body: responseBody === '' ? {} : responseBody }
  const summary = `${status} ${response.body.code ?? response.body.status ?? ''}${faultAt}`
  if (status >= 500 && !sending.faultAt) fail(run, 'API', `${method} ${url} returned ${summary}`)
  return { response, summary }
}

/** Sends one call of THE LIST as one of the clients. */
export async function callOfList(run: Run): Promise<string | null> {
  const name = weighted(run.random, run.options.receivers === false ? WEIGHTS.without : WEIGHTS.with_receivers)
  const scene = sceneOf(run, anyClient(run))
  const attempt = ALL[name]!.make(scene)
  return (
    attempt && `${name}: ${await sendAs(run, name, scene, attempt, faultOf(run, ['error', 'error', 'error', 'crash']))}`
  )
}

/** Sends an attempt of the call of this name and checks its response. */
export async function sendAs(run: Run, name: string, scene: Scene, attempt: Attempt, fault: Fault | null) {
  const { response, summary } = await send(run, scene.client, attempt, fault)
  const violation = response && response.status < 500 ? ALL[name]!.check?.(scene, response, attempt) : null
  if (violation) fail(run, violation.includes('another tenant') ? 'I7' : 'I4', violation)
  return `${attempt.method} ${attempt.url} → ${summary}`
}
