/** What the document says is wrong with a request, as the statuses that report it. */
import { Ajv, type ValidateFunction } from 'ajv'
import type { Schema } from '../http/examples.ts'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import { createDocumentAjv } from '../http/testing-responses.ts'
import { describeKeywords } from '../http/validation.ts'
import type { Operation } from './document.ts'
import type { SentRequest } from './request.ts'
import type { CallStep } from './steps.ts'

/** Returns a function that lists the statuses of all faults of a request; an empty list for a valid request. */
export function createRequestCheck(document: OpenapiDocument): (step: CallStep, sent: SentRequest) => number[] {
  const bodies = createDocumentAjv(document)
  // Without strictNumbers, which would accept "1e309" as a number within all bounds.
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

  function faultsOf({ operation, attack }: CallStep, sent: SentRequest): number[] {
    const faults: number[] = []
    if (attack.kind === 'path' && !sent.path.every((text, i) => isOfForm(text, operation.pathParameters[i]!.schema))) {
      faults.push(404, 400, 405, 414)
    }
    if (!fitsQuery(operation, sent.query)) faults.push(400)
    if (sent.url.length > 8_192) faults.push(414)
    if (/%00|%ED%A0%80/i.test(sent.url)) faults.push(400)
    if (attack.kind === 'content_type' && (operation.isRaw || sent.payload)) faults.push(415)
    if (operation.body) faults.push(...bodyFaults(operation.body, attack.kind === 'body' ? parse(sent.payload) : sent))
    if (Buffer.byteLength(sent.payload ?? '') > 2 ** 20) faults.push(413)
    return faults
  }

  function bodyFaults({ schema, required }: NonNullable<Operation['body']>, sent: { json: unknown } | null): number[] {
    if (sent === null || isDeeper(sent.json, 32) || isPoison(sent.json)) return [400]
    if (sent.json === undefined || sent.json === null) return required ? [422] : []
    return fits(schema, sent.json) ? [] : [422]
  }

  return faultsOf
}

const isOfForm = (text: string, { pattern = '' }: Schema): boolean => text !== '' && new RegExp(pattern, 'u').test(text)

function parse(payload: SentRequest['payload']): { json: unknown } | null {
  const bytes = Buffer.from(payload ?? '')
  if (bytes.length === 0) return { json: undefined }
  try {
    return { json: JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) }
  } catch {
    return null
  }
}

/** Whether an unsafe copy of the value would change a prototype. */
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
