/**
 * Judges responses: rules for every response, and rules that depend on what the document says about the request. They
 * follow the checks of schemathesis and the checkers of RESTler.
 */
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { createResponseCheck, type SeenResponse } from '../http/testing-responses.ts'
import type { SentRequest } from './request.ts'
import { createRequestCheck } from './request-faults.ts'
import type { CallStep } from './steps.ts'

/** A response that violates a rule; the message states the rule. */
export class Finding extends Error {}

/** Whether the resource of the URL exists for the tenant; `unknown` while it is being deleted. */
export type Presence = 'present' | 'absent' | 'unknown'

/** A write of an instance by a key with a budget: whether that budget has made the instance. */
export type Budgeted = 'inside' | 'outside' | 'not_applicable'

/** Error codes of schema validation: never a response to a request that matches the schema. */
const OF_SCHEMA =
  /^(required|unknown_field|wrong_type|too_long|too_short|too_many|too_few|too_small|too_large|duplicate)$/
/** Internals that no problem may contain. */
const LEAK =
  /\bat .+\.[jt]s:\d+|node_modules|node:internal|\bsyntax error at\b|violates .* constraint|duplicate key|\b(relation|column) "|\bselect\b .+ \bfrom\b|postgres|\bpg_|ECONN|ENOENT|EACCES|ENOSPC|\/(work|root|home|tmp|var|nonexistent)\/|\[object Object\]|\bundefined\b|TypeError|ERR_|FST_/i

export type Oracle = ReturnType<typeof createOracle>

/** The judge of all responses. */
export function createOracle(document: OpenapiDocument) {
  const check = createResponseCheck(document)
  const faultsOf = createRequestCheck(document)

  /** Throws `Finding` unless the response is acceptable for the request. */
  function judge(
    step: CallStep,
    sent: SentRequest,
    response: SeenResponse,
    presence: Presence,
    budgeted: Budgeted = 'not_applicable',
  ): void {
    general(sent, response)
    const wrong = step.attack.kind === 'method' ? null : verdict(step, sent, response, presence, budgeted)
    if (wrong !== null) throw new Finding(wrong)
  }

  /** The rule that the response violates; null if it is acceptable. */
  function verdict(
    step: CallStep,
    sent: SentRequest,
    { status, body }: SeenResponse,
    presence: Presence,
    budgeted: Budgeted,
  ): string | null {
    const { operation, attack } = step
    const code = (body as { code?: string } | null)?.code
    const unless = (holds: boolean, rule: string) => (holds ? null : rule)
    if (attack.kind === 'key' && sent.url.length < 8_000) {
      return unless(status === 401, 'an invalid key must return 401')
    }
    // The revocation may come before the request, or while it runs.
    if (step.by === 'revoked' && status === 401) return null
    if (code === 'not_in_budget')
      return unless(budgeted === 'outside', 'not_in_budget for an instance that the budget of the key has made')
    const faults = faultsOf(step, sent)
    if (faults.length > 0) {
      // The server may check first whether the resource exists.
      const possible = [...faults, ...(presence === 'present' ? [] : [404]), ...(operation.isRaw ? [409] : [])]
      return unless(
        possible.includes(status),
        `the request is not valid and must return ${[...new Set(faults)].join(' or ')}`,
      )
    }
    if (status < 300 && budgeted === 'outside') return 'a key with a budget changed an instance of another key'
    if (status < 300)
      return unless(presence !== 'absent', 'the resource does not exist for this tenant: the status must be 404')
    if (status === 304) return unless('if-none-match' in sent.headers, '304 without If-None-Match')
    if (status === 404) return unless(presence !== 'present', '404 for a resource that exists')
    if (status === 412) return unless('if-match' in sent.headers, '412 without If-Match')
    if (status === 400 && code === 'invalid_cursor')
      return unless('cursor' in sent.query, 'invalid_cursor without a cursor')
    if (status === 410) return unless('after' in sent.query, '410 without after')
    if (status === 409 || status === 429) return null
    if (status === 422 && code !== 'validation_failed') return null
    const { errors = [] } = body as { errors?: { code: string }[] }
    // A key with more privileges than the key that creates it: the errors name the fields.
    if (status === 403) return unless(errors.length > 0, '403 although the key has the scope of the operation')
    const isMutated = attack.kind === 'json' && !errors.some((error) => OF_SCHEMA.test(error.code))
    return unless(status === 422 && isMutated, 'the request is valid as the document says')
  }

  /** Rules for every response. Each status of 500 or above is a finding: the fuzzer causes no outage that excuses it. */
  function general(
    { method, url, headers }: Pick<SentRequest, 'method' | 'url' | 'headers'>,
    response: SeenResponse,
  ): void {
    const { status, body } = response
    must(status < 500, 'the server failed')
    try {
      check(method, url, response)
    } catch (error) {
      throw new Finding((error as Error).message)
    }
    const given = [headers['x-request-id'] ?? []].flat().join(', ')
    const echoed = response.headers['x-request-id']!
    const isOurs = /^req_[0-9a-z]{20}$/.test(echoed)
    const isValid = /^(?!req_)[A-Za-z0-9._-]{1,128}$/.test(given)
    must(isValid ? echoed === given : isOurs, `X-Request-ID ${JSON.stringify(given)} was returned as ${echoed}`)
    if (status === 405)
      must(/^[A-Z]+(, [A-Z]+)*$/.test(response.headers.allow ?? ''), '405 without a valid Allow header')
    if (status === 405) must(!response.headers.allow!.split(', ').includes(method), '405 for a method in Allow')
    if (status < 400) return
    const found = LEAK.exec(withoutEcho(JSON.stringify({ ...(body as object) }), url))
    must(found === null, `the problem reveals internals: ${found?.[0]}`)
  }

  return { judge, general }
}

/** The text of a problem without the client's own input, which is in quotation marks. */
function withoutEcho(text: string, url: string): string {
  return text.replaceAll(url, '').replace(/\\"(?:[^"\\]|\\\\.|\\[^"])*\\"/g, '')
}

function must(holds: boolean, rule: string): void {
  if (!holds) throw new Finding(rule)
}
