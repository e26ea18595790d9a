/** Runs sequences of steps and judges every response. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { createTestKey, textOf } from '../http/testing.ts'
import type { SeenResponse } from '../http/testing-responses.ts'
import type { World } from '../instances/testing-world.ts'
import type { Scope } from '../keys/scopes.ts'
import { listedType, type Operation } from './document.ts'
import { checkLimits, createBudgetKey } from './limits.ts'
import { type Budgeted, createOracle, Finding, type Oracle, type Presence } from './oracle.ts'
import type { Report } from './report.ts'
import { curlOf, requestOf, type SentRequest } from './request.ts'
import { makeResource, PARENT_TYPE, READABLE_AFTER_DELETE } from './resources.ts'
import type { CallStep, Step } from './steps.ts'
import { Tenant, typeOf } from './tenant.ts'
import { Canary, missingId, Pick } from './values.ts'

type Page = { data: { id: string; deployment_id?: string }[]; pagination: { next_cursor: string | null } }

/** After this time the client aborts a long poll or a stream. */
const ABORT_MS = 150
/** How often to check whether the engine has handled all due work. */
const ENGINE_CHECKS = 50
const RESPONSE_TIMEOUT_MS = 20_000

export class Runner {
  readonly #world: World
  readonly #document: OpenapiDocument
  readonly #operations: Operation[]
  readonly #report: Report
  readonly #oracle: Oracle
  /** IDs of the installation, which no tenant created. */
  readonly #common = new Set<string>()
  readonly #lists: Operation[]
  /** Types that a POST creates. */
  readonly #createdTypes: Set<string | null>

  constructor(world: World, document: OpenapiDocument, operations: Operation[], report: Report) {
    this.#world = world
    this.#document = document
    this.#operations = operations
    this.#report = report
    this.#oracle = createOracle(document)
    this.#lists = operations.filter(
      (one) =>
        one.method === 'GET' && one.pathParameters.length === 0 && one.query.some(({ name }) => name === 'cursor'),
    )
    this.#createdTypes = new Set(
      operations.filter(({ responses }) => responses.has(201)).map((one) => this.#listedTypeAt(one.path)),
    )
  }

  async start(): Promise<void> {
    for (const id of await this.#listAll(new Tenant(this.#world.app, this.#world.test))) this.#common.add(id)
  }

  /** Runs a sequence with two new tenants. Throws a `Finding` for a response that the oracle rejects. */
  async run(steps: Step[]): Promise<void> {
    this.#report.sequences++
    const tenants = [await this.#newTenant(), await this.#newTenant()] as const
    const runTenant = async (index: 0 | 1) => {
      const [self, other] = index === 0 ? tenants : [tenants[1], tenants[0]]
      for (const step of steps) if (step.tenant === index) await this.#perform(step, self, other)
    }
    const ends = await Promise.allSettled([runTenant(0), runTenant(1)])
    for (const end of ends) if (end.status === 'rejected') throw end.reason
    for (const tenant of tenants) {
      await this.#checkLeaks(tenant)
      await checkLimits(this.#world, tenant)
    }
  }

  #listedTypeAt(path: string): string | null {
    const list = this.#lists.find((one) => one.path === path)
    return list ? listedType(this.#document, list) : null
  }

  /** The IDs in all lists of types that tenants create, except instances that a deployment created. */
  async #listAll(tenant: Tenant): Promise<string[]> {
    const ids: string[] = []
    for (const list of this.#lists.filter((one) => this.#createdTypes.has(listedType(this.#document, one)))) {
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

  async #newTenant(): Promise<Tenant> {
    const { test } = await this.#world.tenant()
    // The sequence needs this key from start to end.
    this.#common.add(test.principal.key_id)
    const tenant = new Tenant(this.#world.app, test)
    await this.#world.owner`
      update environments set clock_frozen_at = '2030-01-01' where id = ${tenant.environment_id}`
    return tenant
  }

  /** RESTler's resource-leak rule: a failed request creates nothing. */
  async #checkLeaks(tenant: Tenant): Promise<void> {
    for (const id of await this.#listAll(tenant)) {
      if (this.#common.has(id) || tenant.stateOf(id) !== null) continue
      throw new Finding(`${id} exists, but no successful request created it`)
    }
  }

  async #perform(step: Step, self: Tenant, other: Tenant): Promise<void> {
    if (step.step === 'advance') {
      await this.#drainEngine(self)
      await this.#world.owner`
        update environments set clock_frozen_at = clock_frozen_at + make_interval(secs => ${step.seconds})
        where id = ${self.environment_id}`
      return this.#drainEngine(self)
    }
    if (step.step === 'page') {
      const url = self.pageUrls[step.n % self.pageUrls.length]
      if (url !== undefined) await this.#follow(url, self, other, 'the next page')
      return
    }
    const { key, revoke } = await this.#keyOf(step, self)
    const sent = await requestOf(step, key, (value) => this.#resolve(value, self, other))
    await Promise.all([this.#call(step, sent, self, other), revoke()])
    if (step.by === 'revoked') await this.#checkEnded(key)
  }

  async #resolve(placeholder: Pick | Canary, self: Tenant, other: Tenant): Promise<string> {
    if (placeholder instanceof Canary) return `${self.canary}-${placeholder.n}`
    const { type, from, n } = placeholder
    if (from === 'missing') return missingId(type)
    if (from === 'deleted') return self.nth(type, 'deleted', n) ?? missingId(type)
    const owner = from === 'own' ? self : other
    const known = owner.nth(type, 'present', n)
    if (known || type === 'env') return known ?? missingId(type)
    const parent = PARENT_TYPE[type]
    const parents = parent === undefined ? [] : [await this.#resolve(new Pick(parent, from, n), self, other)]
    const id = await makeResource(type, owner.call, this.#operations, this.#document, parents)
    owner.add(id)
    return id
  }

  /** The key of a step, and what happens to it while the request runs. */
  async #keyOf({ by }: CallStep, self: Tenant): Promise<{ key: string; revoke: () => Promise<unknown> }> {
    if (by === 'tenant') return { key: self.key, revoke: async () => {} }
    if (by === 'budget') {
      self.budgetKey ??= await createBudgetKey(this.#world, self)
      this.#common.add(self.budgetKey.id)
      return { key: self.budgetKey.key, revoke: async () => {} }
    }
    const { key, principal } = await createTestKey(this.#world.deps, self.principal, self.principal.scopes as Scope[])
    this.#common.add(principal.key_id)
    return {
      key,
      revoke: async () => this.#world.owner`update api_keys set revoked_at = now() where id = ${principal.key_id}`,
    }
  }

  /** A key whose revocation was committed is refused as soon as no process caches it. */
  async #checkEnded(key: string): Promise<void> {
    const { deps, app } = this.#world
    if ((await deps.keys.find(key)) !== null) throw new Finding('a revoked key was found')
    const { statusCode } = await app.inject({ url: '/v2/plans', headers: { authorization: `Bearer ${key}` } })
    if (statusCode !== 401) throw new Finding(`a revoked key got ${statusCode}`)
  }

  /** Whether a request is one of a key with a budget that changes an instance. */
  #budgetedOf({ by, operation }: CallStep, { path }: SentRequest, self: Tenant): Budgeted {
    const writes = operation.method !== 'GET' && operation.path.startsWith('/v2/instances/{id}')
    if (by !== 'budget' || !writes) return 'not_applicable'
    return self.madeWithBudget.has(path[0] ?? '') ? 'inside' : 'outside'
  }

  /** Waits until no work of the tenant is due, but not for work that keeps failing. */
  async #drainEngine({ environment_id }: Tenant): Promise<void> {
    const { engine, deps } = this.#world
    engine.nudge()
    for (let i = 0; i < ENGINE_CHECKS; i++) {
      const [due] = await deps.sql`select from work
        where environment_id = ${environment_id} and due_at <= environment_now(${environment_id}) limit 1`
      if (!due) return
      await sleep(2)
    }
  }

  /** Sends the request of a step, judges the response and records what it changed. */
  async #call(step: CallStep, sent: SentRequest, self: Tenant, other: Tenant): Promise<void> {
    const { operation, attack } = step
    const isDocumented = (method: string) =>
      this.#operations.some((one) => one.path === operation.path && one.method === method)
    if (attack.kind === 'method' && isDocumented(attack.method)) return
    const presence = this.#presenceOf(operation, sent, self)
    const response = await this.#send(sent)
    const counts = this.#report.coverage.get(operation.id)!
    counts.sent++
    if (attack.kind === 'none' && presence === 'present') counts.valid++
    if (response === 'aborted') return void counts.aborted++
    withExplanation(sent, response, () => {
      this.#oracle.judge(step, sent, response, presence, this.#budgetedOf(step, sent, self))
      checkIsolation(sent, response, self, other)
    })
    if (attack.kind === 'none' && response.status < 300) counts.accepted++
    else if (response.status === 404) counts.notFound++
    else if (response.status >= 400) counts.rejected++
    if (step.by === 'budget' && response.status === 201) recordBudget(self, response)
    await this.#recordEffects(operation, sent, response, self, other)
  }

  async #send(sent: SentRequest): Promise<SeenResponse | 'aborted'> {
    const controller = new AbortController()
    const mayAbort = 'wait_for' in sent.query || 'follow' in sent.query || /stream/.test(sent.url)
    const timer = setTimeout(() => controller.abort(), mayAbort ? ABORT_MS : RESPONSE_TIMEOUT_MS)
    const { statuses } = this.#report
    try {
      const response = await this.#world.app.inject({
        method: sent.method as 'GET',
        url: sent.url,
        headers: sent.headers,
        ...(sent.payload !== undefined && { payload: sent.payload }),
        signal: controller.signal,
        payloadAsStream: true,
      })
      const text = await textOf(response)
      const isJson = /[/+]json\b/.test(String(response.headers['content-type'])) && text !== ''
      statuses.set(response.statusCode, (statuses.get(response.statusCode) ?? 0) + 1)
      return {
        status: response.statusCode,
        headers: response.headers as never,
        body: isJson ? JSON.parse(text) : text,
      }
    } catch (error) {
      // The only connection error that is excused: the fuzzer itself aborted the request.
      if (mayAbort && controller.signal.aborted) return 'aborted'
      const reason = controller.signal.aborted ? `no response in ${RESPONSE_TIMEOUT_MS} ms` : (error as Error).message
      throw new Finding(`${reason}:\n\n${curlOf(sent)}`)
    } finally {
      clearTimeout(timer)
      this.#report.requests++
    }
  }

  #presenceOf({ pathParameters }: Operation, { path }: SentRequest, self: Tenant): Presence {
    const states = path.map((text, i) => {
      const { type, schema } = pathParameters[i]!
      if (schema.examples?.includes(text)) return 'present'
      // A name, or a resource of the installation.
      if (type === null || !text.startsWith(`${type}_`) || this.#common.has(text)) return 'deleting'
      return self.stateOf(text)
    })
    // With several IDs it is not known whether one belongs to the other.
    if (states.every((state) => state === 'present')) return states.length > 1 ? 'unknown' : 'present'
    return states.every((state) => state === 'present' || state === 'deleting') ? 'unknown' : 'absent'
  }

  /** Records created and deleted resources and the URLs of next pages. */
  async #recordEffects(
    operation: Operation,
    sent: SentRequest,
    { status, headers, body }: SeenResponse,
    self: Tenant,
    other: Tenant,
  ): Promise<void> {
    if (status >= 300) return
    const pathOf = (url: string) => url.replace(this.#world.deps.config.public_url, '')
    const id = (body as { id?: string } | null)?.id
    if (status === 201 && id) {
      self.add(id)
      if (headers.location) await this.#follow(pathOf(headers.location), self, other, 'the created resource')
    }
    if (operation.method === 'DELETE') {
      const id = sent.path.at(-1)!
      self.mark(id, status === 204 && !READABLE_AFTER_DELETE.has(typeOf(id)) ? 'deleted' : 'deleting')
    }
    const next = /^<([^>]+)>; rel="next"$/.exec(headers.link ?? '')?.[1]
    if (next) self.pageUrls.push(pathOf(next))
  }

  /** Reads a URL that the API returned; the response must be 200. */
  async #follow(url: string, self: Tenant, other: Tenant, what: string): Promise<void> {
    const sent: SentRequest = {
      method: 'GET',
      url,
      headers: { authorization: `Bearer ${self.key}` },
      payload: undefined,
      path: [],
      query: {},
      json: undefined,
    }
    const response = await this.#send(sent)
    if (response === 'aborted') return
    withExplanation(sent, response, () => {
      this.#oracle.general(sent, response)
      if (response.status !== 200) throw new Finding(`${what} was not found`)
      checkIsolation(sent, response, self, other)
    })
  }
}

function recordBudget(self: Tenant, { body }: SeenResponse): void {
  const id = (body as { id?: string } | null)?.id
  if (id?.startsWith('inst_')) self.madeWithBudget.add(id)
}

/** RESTler's user-namespace rule: a response contains nothing of the other tenant, except what this tenant has sent. */
function checkIsolation(sent: SentRequest, response: SeenResponse, self: Tenant, other: Tenant): void {
  const request = `${sent.url} ${sent.payload ?? ''} ${JSON.stringify(sent.headers)}`
  const text = `${JSON.stringify(response.headers)} ${JSON.stringify(response.body)}`
  for (const secret of other.secrets()) {
    if (request.includes(secret)) self.sentSecrets.add(secret)
    if (text.includes(secret) && !self.sentSecrets.has(secret))
      throw new Finding(`the response contains ${secret} of another tenant`)
  }
}

/** Adds the request and the response to a finding. */
function withExplanation(sent: SentRequest, response: SeenResponse, judge: () => void): void {
  try {
    judge()
  } catch (error) {
    if (!(error instanceof Finding)) throw error
    const body = JSON.stringify(response.body)?.slice(0, 2_000)
    throw new Finding(`${error.message}:\n\n${curlOf(sent)}\n\n${response.status} ${body}`)
  }
}
