/** Validates requests with Ajv and converts its errors to messages: what is wrong, where, and how to fix it. */
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import { ApiError, type FieldError, validationFailed } from '../lib/errors.ts'
import { escapePointer, unescapePointer } from '../lib/json-pointer.ts'
import { type Bound, boundsOf } from './bounds.ts'

type Part = 'body' | 'querystring' | 'params' | 'headers'
/** Errors of one response. */
const MAX_ERRORS = 100

/** Compiles route schemas. Query parameters are converted to the schema's types; bodies are not. */
export function buildValidator(sharedSchemas: unknown) {
  const options = {
    allErrors: true,
    verbose: true,
    removeAdditional: false,
    useDefaults: true,
    strict: true,
    strictTypes: false,
    formats: { 'date-time': isMoment, uri: true } as const,
    keywords: ['x-rule', 'x-names', 'x-scope', 'example'],
  }
  const strict = new Ajv({ ...options, coerceTypes: false })
  const converting = new Ajv({ ...options, coerceTypes: 'array' })
  for (const ajv of [strict, converting]) describeKeywords(ajv)
  const shared = Object.values(sharedSchemas as Record<string, { $id: string }>)
  for (const schema of shared) {
    strict.addSchema(schema)
    converting.addSchema(schema)
  }
  const byId = new Map(shared.map((each) => [each.$id, each]))
  return ({ schema, httpPart }: { schema: unknown; httpPart?: string }): Validate => {
    const given = schema as object
    if (httpPart === 'body') return bounded(strict.compile(given), boundsOf(given, byId))
    const convert = converting.compile(given)
    // Ajv ignores the bounds of a value that it has converted to Infinity ("1e309"); the strict pass rejects it.
    return /"(integer|number)"/.test(JSON.stringify(schema)) ? both(convert, strict.compile(given)) : convert
  }
}

export type Validate = { (data: unknown): boolean; errors?: ErrorObject[] | null }

/** Validates what the schema can accept of a body; see bounds.ts. */
function bounded(compiled: ValidateFunction, bound: Bound): Validate {
  const validate: Validate = (data) => {
    const { value, errors } = bound(data)
    const isValid = compiled(value) && errors.length === 0
    validate.errors = isValid ? null : [...errors, ...(compiled.errors ?? [])]
    return isValid
  }
  return validate
}

function both(first: ValidateFunction, second: ValidateFunction): Validate {
  const validate: Validate = (data) => {
    const isValid = first(data) && second(data)
    validate.errors = first.errors ?? second.errors ?? null
    return isValid
  }
  return validate
}

/** Adds the keyword `x-max-bytes`, which limits the UTF-8 length; `maxLength` counts characters. */
export function describeKeywords(ajv: Ajv): void {
  const validate = (limit: number, text: string) => text.length * 3 <= limit || Buffer.byteLength(text) <= limit
  ajv.addKeyword({ keyword: 'x-max-bytes', type: 'string', schemaType: 'number', validate })
}

/** The error for a request that its route's schema rejects. */
export function schemaError(found: ErrorObject[], part: Part): ApiError {
  if (part === 'params') return new ApiError('not_found', 'No resource exists at this URL.')
  const errors = withoutRepeated(found)
    .slice(0, MAX_ERRORS)
    .map((error) => fieldError(error, part))
  if (part === 'body') return validationFailed(errors)
  const detail = errors.length === 1 ? errors[0]!.message : `${errors.length} parameters are invalid; see errors.`
  return new ApiError('invalid_parameter', detail, { errors })
}

/** Removes errors that repeat another one: branches of a failed anyOf, patterns of a failed property name, `if`. */
function withoutRepeated(errors: ErrorObject[]): ErrorObject[] {
  // A schema has few unions, however many values have failed them.
  const unions = new Set<string>()
  for (const { keyword, schemaPath } of errors) {
    if (keyword === 'anyOf' || keyword === 'oneOf') unions.add(`${schemaPath}/`)
  }
  const isBranch = ({ schemaPath }: ErrorObject) => [...unions].some((union) => schemaPath.startsWith(union))
  return errors.filter((error) => error.propertyName === undefined && error.keyword !== 'if' && !isBranch(error))
}

function fieldError(error: ErrorObject, part: Part): FieldError {
  const child: string | undefined =
    error.params.missingProperty ?? error.params.additionalProperty ?? error.params.propertyName
  const pointer = error.instancePath + (child === undefined ? '' : `/${escapePointer(child)}`)
  const [code, rule] = explain(error, part)
  const name = cut(unescapePointer(pointer.slice(1)))
  if (part === 'body') return { pointer, code, message: `${name === '' ? 'The request body' : name} ${rule}` }
  return { parameter: name, code, message: `${name} ${rule}` }
}

/** The error code, and the message without the field's name at its beginning. */
function explain(
  { keyword, params, schema, parentSchema, data }: ErrorObject,
  part: Part,
): [code: string, rule: string] {
  const rule: string | undefined = parentSchema?.['x-rule']
  switch (keyword) {
    case 'required':
      return ['required', 'is required']
    case 'additionalProperties':
    case 'unevaluatedProperties':
      return part === 'body'
        ? ['unknown_field', 'is not a field of this request; remove it or check the spelling']
        : ['unknown_parameter', 'is not a parameter of this request; remove it or check the spelling']
    case 'type':
      return ['wrong_type', `must be ${rule ?? typeNames(params.type)}, not ${nameOf(data)}`]
    case 'enum':
      return ['not_allowed', `must be one of ${params.allowedValues.map(String).join(', ')}`]
    case 'false schema':
      return ['not_allowed', 'must be omitted']
    case 'const':
      return ['not_allowed', `must be ${JSON.stringify(params.allowedValue)}`]
    case 'minLength':
      return ['too_short', params.limit === 1 ? 'must not be empty' : `must have at least ${params.limit} characters`]
    case 'maxLength':
      return ['too_long', `must have at most ${params.limit} characters`]
    case 'x-max-bytes':
      return ['too_long', `must have at most ${schema} bytes in UTF-8`]
    case 'minItems':
      return ['too_few', `must have at least ${params.limit} ${params.limit === 1 ? 'entry' : 'entries'}`]
    case 'maxItems':
    case 'maxProperties':
      return ['too_many', `must have at most ${params.limit} entries`]
    case 'minProperties':
      return ['too_few', `must have at least ${params.limit} ${params.limit === 1 ? 'field' : 'fields'}`]
    case 'uniqueItems':
      return ['duplicate', `must not contain duplicates (entries ${params.i} and ${params.j})`]
    case 'minimum':
      return ['too_small', `must be at least ${params.limit}`]
    case 'maximum':
      return ['too_large', `must be at most ${params.limit}`]
    case 'propertyNames':
      return ['invalid_name', `is not a valid name: it must be ${schemaRule(parentSchema?.propertyNames)}`]
    default:
      return ['invalid', rule ? `must be ${rule}` : 'is invalid']
  }
}

function schemaRule(schema: { 'x-rule'?: string } | undefined): string {
  return schema?.['x-rule'] ?? 'in the documented format'
}

const TYPE_NAMES: Record<string, string> = {
  string: 'a string',
  integer: 'an integer',
  number: 'a number',
  boolean: 'true or false',
  array: 'an array',
  object: 'an object',
  null: 'null',
}

function typeNames(types: string | string[]): string {
  return [types]
    .flat()
    .map((type) => TYPE_NAMES[type] ?? type)
    .join(' or ')
}

function nameOf(data: unknown): string {
  if (data === null || data === undefined) return 'null'
  if (Array.isArray(data)) return 'an array'
  if (typeof data === 'number' && !Number.isInteger(data))
    return Number.isFinite(data) ? 'a fractional number' : 'this value'
  return TYPE_NAMES[typeof data] ?? 'this value'
}

/** Shortens a long name from the request. */
function cut(name: string): string {
  return name.length > 80 ? `${name.slice(0, 80)}…` : name
}

/** True for a date that exists: JavaScript converts 31 February to a day in March. */
function isMoment(text: string): boolean {
  const [day = ''] = text.split('T')
  const date = new Date(`${day}T00:00:00Z`)
  const exists = !Number.isNaN(date.getTime()) && date.toISOString().slice(0, 10) === day && day > '0000-12-31'
  return exists && !Number.isNaN(Date.parse(text))
}
