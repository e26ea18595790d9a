/**
 * The fuzzer: sequences of requests of two tenants against the whole control plane, its engine running on simulated
 * machines. Each sequence begins with two new projects, so a failing one shrinks to the requests that matter; the two
 * tenants act at the same time, each one thing after the other.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { textOf } from '../http/testing.ts'
import type { SeenResponse } from '../http/testing-responses.ts'
import type { World } from '../instances/testing-world.ts'
import { listedType, type Operation, operationsOf } from './document.ts'
import { createOracle, type Presence, Unacceptable } from './oracle.ts'
import { curlOf, requestOf, type SentRequest } from './request.ts'
import { makeResource, PART_OF, STAYS_READABLE } from './resources.ts'
import { type CallStep, type Step, sequences } from './steps.ts'
import { Tenant, typeOf } from './tenant.ts'
import { Canary, missingId, Pick } from './values.ts'

/** How often an operation was asked for, and how that went. */
export type Coverage = {
  sent: number
  /** Sent with nothing odd about it, for what is there. */
  tried: number
  accepted: number
  refused: number
  missing: number
  left: number
}
export type Report = {
  requests: number
  sequences: number
  coverage: Map<string, Coverage>
  statuses: Map<number, number>
}

type Page = { data: { id: string; deployment_id?: string }[]; pagination: { next_cursor: string | null } }

const RUNS_PER_SEED = 25
/** Who waits or reads a stream leaves after this time. */
const LEAVE_MS = 150
/** How often to look whether the engine has seen what the time has done. */
const ENGINE_LOOKS = 50
const NO_ANSWER_MS = 20_000

/** Sends at least this many requests. Throws with the seed and the shortest failing sequence as curl. */
export async function fuzz(
  world: World,
  options: { requests: number; seed: number; progress?: (report: Report) => void },
): Promise<Report> {
  await world.app.ready()
  const document = world.app.swagger() as unknown as OpenapiDocument
  // Both are tenants as there may be many; projects are made by the operator's keys alone.
  const operations = operationsOf(document).filter(({ scope }) => scope !== 'admin')
  const report: Report = { requests: 0, sequences: 0, coverage: new Map(), statuses: new Map() }
  for (const { id } of operations)
    report.coverage.set(id, { sent: 0, tried: 0, accepted: 0, refused: 0, missing: 0, left: 0 })
  const runSequence = await createRunner(world, document, operations, report)
  const property = fc.asyncProperty(sequences(operations, document.components.schemas), runSequence)
  for (let seed = options.seed; report.requests < options.requests; seed++) {
    const run = await fc.check(property, { seed, numRuns: RUNS_PER_SEED })
    options.progress?.(report)
    if (!run.failed) continue
    const cause = run.errorInstance as Error | undefined
    const again = `npm run fuzz -- --requests 1 --seed ${seed}`
    throw new Error(
      `${cause?.message ?? 'failed'}\n\nAfter ${report.requests} requests, shrunk ${run.numShrinks} times. Again: ${again}`,
      { cause },
    )
  }
  return report
}

async function createRunner(world: World, document: OpenapiDocument, operations: Operation[], report: Report) {
  const oracle = createOracle(document)
  const { app, deps } = world
  /** What the installation has, which no tenant made. */
  const common = new Set<string>()
  const lists = operations.filter(
    (one) => one.method === 'GET' && one.pathParameters.length === 0 && one.query.some(({ name }) => name === 'cursor'),
  )
  const made = new Set(operations.filter(({ answers }) => answers.has(201)).map((one) => typeOfAnswer(one)))
  for (const id of await listAll(new Tenant(app, world.test))) common.add(id)

  /** Ids in all lists of what tenants make; a deployment's instances are not made by a request. */
  async function listAll(tenant: Tenant): Promise<string[]> {
    const ids: string[] = []
    for (const list of lists.filter((one) => made.has(listedType(document, one)))) {
      let url: string | null = `${list.path}?limit=100`
      while (url !== null) {
        const { data, pagination } = (await tenant.call('GET', url)).body as Page
        ids.push(...data.filter((one) => !one.deployment_id).map((one) => one.id))
        const { next_cursor }: Page['pagination'] = pagination
        url = next_cursor && `${list.path}?limit=100&cursor=${next_cursor}`
      }
    }
    return ids
  }

  function typeOfAnswer(operation: Operation): string | null {
    const [list] = lists.filter(({ path }) => path === operation.path)
    return list ? listedType(document, list) : null
  }

  async function newTenant(): Promise<Tenant> {
    const { test } = await world.tenant()
    // Its key is there from the beginning, and is needed to the end.
    common.add(test.principal.key_id)
    const tenant = new Tenant(app, test)
    await world.owner`update environments set clock_frozen_at = '2030-01-01' where id = ${tenant.environment_id}`
    return tenant
  }

  async function send(sent: SentRequest): Promise<SeenResponse | 'left'> {
    const controller = new AbortController()
    const leaves = 'wait_for' in sent.query || 'follow' in sent.query || /stream/.test(sent.url)
    const timer = setTimeout(() => controller.abort(), leaves ? LEAVE_MS : NO_ANSWER_MS)
    try {
      const response = await app.inject({
        method: sent.method as 'GET',
        url: sent.url,
        headers: sent.headers,
        ...(sent.payload !== undefined && { payload: sent.payload }),
        signal: controller.signal,
        payloadAsStream: true,
      })
      const text = await textOf(response)
      const json = /[/+]json\b/.test(String(response.headers['content-type'])) && text !== ''
      report.statuses.set(response.statusCode, (report.statuses.get(response.statusCode) ?? 0) + 1)
      return {
        status: response.statusCode,
        headers: response.headers as never,
        body: json ? JSON.parse(text) : text,
      }
    } catch (error) {
      if (leaves && controller.signal.aborted) return 'left'
      throw new Unacceptable(controller.signal.aborted ? `no answer in ${NO_ANSWER_MS} ms` : (error as Error).message)
    } finally {
      clearTimeout(timer)
      report.requests++
    }
  }

  async function runSequence(steps: Step[]): Promise<void> {
    report.sequences++
    const tenants = [await newTenant(), await newTenant()] as const
    const lane = async (mine: 0 | 1) => {
      const [self, other] = mine === 0 ? tenants : [tenants[1], tenants[0]]
      for (const step of steps) if (step.tenant === mine) await perform(step, self, other)
    }
    const ends = await Promise.allSettled([lane(0), lane(1)])
    for (const end of ends) if (end.status === 'rejected') throw end.reason
    for (const tenant of tenants) await leavesNothing(tenant)
  }

  /** RESTler's resource-leak rule: a request that failed has made nothing. */
  async function leavesNothing(tenant: Tenant): Promise<void> {
    for (const id of await listAll(tenant)) {
      if (common.has(id) || tenant.stateOf(id) !== null) continue
      throw new Unacceptable(`${id} is there, and no request that succeeded has made it`)
    }
  }

  async function perform(step: Step, self: Tenant, other: Tenant): Promise<void> {
    if (step.step === 'pass') {
      await engineSettles(self)
      await world.owner`update environments set clock_frozen_at = clock_frozen_at + make_interval(secs => ${step.seconds})
        where id = ${self.environment_id}`
      return engineSettles(self)
    }
    if (step.step === 'page') {
      const url = self.pages[step.n % self.pages.length]
      if (url !== undefined) await follow(url, self, other, 'the next page')
      return
    }
    const resolve = async (placeholder: Pick | Canary): Promise<string> => {
      if (placeholder instanceof Canary) return `${self.canary}-${placeholder.n}`
      const { type, from, n } = placeholder
      if (from === 'missing') return missingId(type)
      if (from === 'removed') return self.nth(type, 'removed', n) ?? missingId(type)
      const owner = from === 'own' ? self : other
      const known = owner.nth(type, 'there', n)
      if (known || type === 'env') return known ?? missingId(type)
      const whole = PART_OF[type]
      const within = whole === undefined ? [] : [await resolve(new Pick(whole, from, n))]
      const id = await makeResource(type, owner.call, operations, document, within)
      owner.add(id)
      return id
    }
    await judged(step, await requestOf(step, self.key, resolve), self, other)
  }

  /** Waits until the engine has nothing to do for the tenant, at its time; what fails again and again is not waited for. */
  async function engineSettles({ environment_id }: Tenant): Promise<void> {
    world.engine.nudge()
    for (let i = 0; i < ENGINE_LOOKS; i++) {
      const [due] = await deps.sql`select from work
        where environment_id = ${environment_id} and due_at <= environment_now(${environment_id}) limit 1`
      if (!due) return
      await sleep(2)
    }
  }

  async function judged(step: CallStep, sent: SentRequest, self: Tenant, other: Tenant): Promise<void> {
    const { operation, attack } = step
    if (
      attack.kind === 'method' &&
      operations.some((one) => one.path === operation.path && one.method === attack.method)
    )
      return
    const presence = presenceOf(operation, sent, self)
    const answer = await send(sent)
    const seen = report.coverage.get(operation.id)!
    seen.sent++
    if (attack.kind === 'nothing' && presence === 'there') seen.tried++
    if (answer === 'left') return void seen.left++
    explained(sent, answer, () => {
      oracle.judge(step, sent, answer, presence)
      keepsSecrets(sent, answer, self, other)
    })
    if (attack.kind === 'nothing' && answer.status < 300) seen.accepted++
    else if (answer.status === 404) seen.missing++
    else if (answer.status >= 400) seen.refused++
    await remember(operation, sent, answer, self, other)
  }

  function presenceOf({ pathParameters }: Operation, { path }: SentRequest, self: Tenant): Presence {
    const states = path.map((text, i) => {
      const { type, schema } = pathParameters[i]!
      if (schema.examples?.includes(text)) return 'there'
      // A name, or what the installation has for everybody.
      if (type === null || !text.startsWith(`${type}_`) || common.has(text)) return 'leaving'
      return self.stateOf(text)
    })
    // Of several ids nobody knows here whether one belongs to the other.
    if (states.every((state) => state === 'there')) return states.length > 1 ? 'unsure' : 'there'
    return states.every((state) => state === 'there' || state === 'leaving') ? 'unsure' : 'absent'
  }

  /** RESTler's user-namespace rule: nothing of the other tenant is in an answer, but for what this one has written itself. */
  function keepsSecrets(sent: SentRequest, answer: SeenResponse, self: Tenant, other: Tenant): void {
    const request = `${sent.url} ${sent.payload ?? ''} ${JSON.stringify(sent.headers)}`
    const text = `${JSON.stringify(answer.headers)} ${JSON.stringify(answer.body)}`
    for (const secret of other.secrets()) {
      if (request.includes(secret)) self.told.add(secret)
      if (text.includes(secret) && !self.told.has(secret))
        throw new Unacceptable(`it shows ${secret} of another tenant`)
    }
  }

  /** What is known after an answer: what there is, what is gone, and where lists go on. */
  async function remember(operation: Operation, sent: SentRequest, answer: SeenResponse, self: Tenant, other: Tenant) {
    const { status, headers, body } = answer
    if (status >= 300) return
    const id = (body as { id?: string } | null)?.id
    if (status === 201 && id) {
      self.add(id)
      if (headers.location)
        await follow(headers.location.replace(deps.config.public_url, ''), self, other, 'what was made')
    }
    if (operation.method === 'DELETE') {
      const id = sent.path.at(-1)!
      self.mark(id, status === 204 && !STAYS_READABLE.has(typeOf(id)) ? 'removed' : 'leaving')
    }
    const next = /^<([^>]+)>; rel="next"$/.exec(headers.link ?? '')?.[1]
    if (next) self.pages.push(next.replace(deps.config.public_url, ''))
  }

  /** Reads an address that the API itself has given: it must be there. */
  async function follow(url: string, self: Tenant, other: Tenant, what: string): Promise<void> {
    const sent: SentRequest = {
      method: 'GET',
      url,
      headers: { authorization: `Bearer ${self.key}` },
      payload: undefined,
      path: [],
      query: {},
      json: undefined,
    }
    const answer = await send(sent)
    if (answer === 'left') return
    explained(sent, answer, () => {
      oracle.general(sent, answer)
      if (answer.status !== 200) throw new Unacceptable(`${what} is not there`)
      keepsSecrets(sent, answer, self, other)
    })
  }

  return runSequence
}

/** Adds request and answer to what a check throws. */
function explained(sent: SentRequest, answer: SeenResponse, judge: () => void): void {
  try {
    judge()
  } catch (error) {
    if (!(error instanceof Unacceptable)) throw error
    const body = JSON.stringify(answer.body)?.slice(0, 2_000)
    throw new Unacceptable(`${error.message}:\n\n${curlOf(sent)}\n\n${answer.status} ${body}`)
  }
}
