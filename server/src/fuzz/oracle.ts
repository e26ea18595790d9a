/**
 * What an answer must be, whatever the request was; and what it may be, given what the document says of the request.
 * The rules are schemathesis' checks and RESTler's checkers.
 */
import { Ajv, type ValidateFunction } from 'ajv'
import type { Schema } from '../http/examples.ts'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { createDocumentAjv, createResponseCheck, type SeenResponse } from '../http/testing-responses.ts'
import { describeKeywords } from '../http/validation.ts'
import type { Operation } from './document.ts'
import type { SentRequest } from './request.ts'
import type { CallStep } from './steps.ts'

/** An answer that must not be; the message says why. */
export class Unacceptable extends Error {}

/** Whether what the address names is there for the one who asks; `unsure` while it goes away. */
export type Presence = 'there' | 'absent' | 'unsure'

/** Codes of what the schema itself tells: never an answer to what fits the schema. */
const OF_SCHEMA =
  /^(required|unknown_field|wrong_type|too_long|too_short|too_many|too_few|too_small|too_large|duplicate)$/
/** What no user should ever read in a problem. */
const LEAK =
  /\bat .+\.[jt]s:\d+|node_modules|node:internal|\bsyntax error at\b|violates .* constraint|duplicate key|\b(relation|column) "|\bselect\b .+ \bfrom\b|postgres|\bpg_|ECONN|ENOENT|EACCES|ENOSPC|\/(work|root|home|tmp|var|nonexistent)\/|\[object Object\]|\bundefined\b|TypeError|ERR_|FST_/i

/** The judge over all answers. */
export function createOracle(document: OpenapiDocument) {
  const check = createResponseCheck(document)
  const bodies = createDocumentAjv(document)
  // Without strictNumbers, which would take "1e309" for a number within all bounds.
  const queries = new Ajv({ strict: false, strictNumbers: false, coerceTypes: 'array', formats: { 'date-time': true } })
  describeKeywords(queries)
  const compiled = new Map<object, ValidateFunction>()
  const queryOf = new Map<Operation, ValidateFunction>()

  const fits = (schema: object, value: unknown): boolean => {
    if (!compiled.has(schema)) compiled.set(schema, bodies.compile(schema))
    return compiled.get(schema)!(value)
  }
  const fitsQuery = (operation: Operation, query: SentRequest['query']): boolean => {
    if (!queryOf.has(operation)) {
      const properties = Object.fromEntries(operation.query.map(({ name, schema }) => [name, schema]))
      queryOf.set(operation, queries.compile({ type: 'object', properties, additionalProperties: false }))
    }
    return queryOf.get(operation)!(structuredClone(query))
  }

  /** The statuses that say what is wrong with a request; none: nothing is. */
  function faultsOf({ operation, attack }: CallStep, sent: SentRequest): number[] {
    const faults: number[] = []
    if (attack.kind === 'path' && !sent.path.every((text, i) => isOfForm(text, operation.pathParameters[i]!.schema))) {
      faults.push(404, 400, 405, 414)
    }
    if (!fitsQuery(operation, sent.query)) faults.push(400)
    if (sent.url.length > 8_192) faults.push(414)
    if (/%00|%ED%A0%80/i.test(sent.url)) faults.push(400)
    if (attack.kind === 'content_type' && (operation.raw || sent.payload)) faults.push(415)
    if (operation.body) faults.push(...bodyFaults(operation.body, attack.kind === 'body' ? parse(sent.payload) : sent))
    if (Buffer.byteLength(sent.payload ?? '') > 2 ** 20) faults.push(413)
    return faults
  }

  function bodyFaults({ schema, required }: NonNullable<Operation['body']>, sent: { json: unknown } | null): number[] {
    if (sent === null || isDeeper(sent.json, 32) || isPoison(sent.json)) return [400]
    if (sent.json === undefined || sent.json === null) return required ? [422] : []
    return fits(schema, sent.json) ? [] : [422]
  }

  /** Throws Unacceptable unless the answer may be given to this request. */
  function judge(step: CallStep, sent: SentRequest, answer: SeenResponse, presence: Presence): void {
    general(sent, answer)
    const wrong = step.attack.kind === 'method' ? null : verdict(step, sent, answer, presence)
    if (wrong !== null) throw new Unacceptable(wrong)
  }

  /** What is wrong with an answer to this request; null: nothing. */
  function verdict(
    step: CallStep,
    sent: SentRequest,
    { status, body }: SeenResponse,
    presence: Presence,
  ): string | null {
    const { operation, attack } = step
    const code = (body as { code?: string } | null)?.code
    const unless = (holds: boolean, otherwise: string) => (holds ? null : otherwise)
    if (attack.kind === 'key' && sent.url.length < 8_000) {
      return unless(status === 401, 'a key that is not valid must be refused by 401')
    }
    const faults = faultsOf(step, sent)
    if (faults.length > 0) {
      // Whether what the address names is there may be looked at before the rest, or after.
      const possible = [...faults, ...(presence === 'there' ? [] : [404]), ...(operation.raw ? [409] : [])]
      return unless(possible.includes(status), `it is not valid, which is told by ${[...new Set(faults)].join(' or ')}`)
    }
    if (status < 300) return unless(presence !== 'absent', 'there is no such thing for this tenant (404)')
    if (status === 304) return unless('if-none-match' in sent.headers, 'nobody asked whether it has changed')
    if (status === 404) return unless(presence !== 'there', 'it is there')
    if (status === 412) return unless('if-match' in sent.headers, 'there was no precondition')
    if (status === 400 && code === 'invalid_cursor') return unless('cursor' in sent.query, 'there was no cursor')
    if (status === 410) return unless('after' in sent.query, 'nobody asked to go on somewhere')
    if (status === 409 || status === 429) return null
    if (status === 422 && code !== 'validation_failed') return null
    const { errors = [] } = body as { errors?: { code: string }[] }
    // A key that would be stronger than the one that makes it: told by its fields.
    if (status === 403) return unless(errors.length > 0, 'the key has every scope that the operation needs')
    const isOdd = attack.kind === 'json' && !errors.some((error) => OF_SCHEMA.test(error.code))
    return unless(status === 422 && isOdd, 'it is as the document says')
  }

  /** What holds for every answer. */
  function general(
    { method, url, headers }: Pick<SentRequest, 'method' | 'url' | 'headers'>,
    answer: SeenResponse,
  ): void {
    const { status, body } = answer
    must(status < 500, 'the server failed')
    try {
      check(method, url, answer)
    } catch (error) {
      throw new Unacceptable((error as Error).message)
    }
    const given = [headers['x-request-id'] ?? []].flat().join(', ')
    const echoed = answer.headers['x-request-id']!
    const isOurs = /^req_[0-9a-z]{20}$/.test(echoed)
    const isValid = /^(?!req_)[A-Za-z0-9._-]{1,128}$/.test(given)
    must(isValid ? echoed === given : isOurs, `X-Request-ID ${JSON.stringify(given)} was answered by ${echoed}`)
    if (status === 405) must(/^[A-Z]+(, [A-Z]+)*$/.test(answer.headers.allow ?? ''), '405 must say what is allowed')
    if (status === 405) must(!answer.headers.allow!.split(', ').includes(method), 'the method is among those allowed')
    if (status < 400) return
    const told = { ...(body as Record<string, unknown>) }
    const found = LEAK.exec(withoutEcho(JSON.stringify(told), url))
    must(found === null, `it tells of the inside: ${found?.[0]}`)
  }

  return { judge, general }
}

const isOfForm = (text: string, { pattern = '' }: Schema): boolean => text !== '' && new RegExp(pattern, 'u').test(text)

/** What of a problem is not the client's own words, which are shown in quotation marks. */
function withoutEcho(text: string, url: string): string {
  return text.replaceAll(url, '').replace(/\\"(?:[^"\\]|\\\\.|\\[^"])*\\"/g, '')
}

function must(holds: boolean, otherwise: string): void {
  if (!holds) throw new Unacceptable(otherwise)
}

function parse(payload: SentRequest['payload']): { json: unknown } | null {
  const bytes = Buffer.from(payload ?? '')
  if (bytes.length === 0) return { json: undefined }
  try {
    return { json: JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) }
  } catch {
    return null
  }
}

/** What would change a prototype when it is copied carelessly. */
function isPoison(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  if (Object.hasOwn(value, '__proto__')) return true
  const maker: unknown = Object.hasOwn(value, 'constructor') ? value.constructor : null
  if (typeof maker === 'object' && maker !== null && Object.hasOwn(maker, 'prototype')) return true
  return Object.values(value).some(isPoison)
}

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((child) => isDeeper(child, levels - 1))
}
