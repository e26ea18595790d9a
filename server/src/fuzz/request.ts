/** Builds the request of a step. */
import type { Attack, CallStep, Mutation } from './steps.ts'
import { Canary, Pick } from './values.ts'

export type SentRequest = {
  method: string
  url: string
  headers: Record<string, string | string[]>
  payload: string | Buffer | undefined
  /** The values that were sent, for the oracle. */
  path: string[]
  query: Record<string, string | string[]>
  json: unknown
}

/** Returns the value of a placeholder when its request is sent. */
export type Resolve = (placeholder: Pick | Canary) => Promise<string>

/** Builds the request of a step. */
export async function requestOf(step: CallStep, key: string, resolve: Resolve): Promise<SentRequest> {
  const { operation, attack } = step
  const path = (await Promise.all(
    step.path.map((value) => (value instanceof Pick ? resolve(value) : value)),
  )) as string[]
  if (attack.kind === 'path') path[attack.at % path.length] = attack.text
  const query = queryOf(step)
  const url = operation.path.replace(/\{\w+\}/g, () => encode(path.shift()!))
  const headers: SentRequest['headers'] = { authorization: `Bearer ${key}` }
  let json: unknown
  let payload: SentRequest['payload']
  if (operation.isRaw) {
    headers['content-type'] = 'application/octet-stream'
    payload = Buffer.from(step.body as Uint8Array)
  } else if (step.body !== undefined || attack.kind === 'json') {
    headers['content-type'] = 'application/json'
    const changed = attack.kind === 'json' ? attack.mutations.reduce(mutate, step.body) : step.body
    json = await resolveAll(changed, resolve)
    payload = JSON.stringify(json)
  }
  const request = { method: operation.method, url, headers, payload, path: sentPath(url, operation.path), query, json }
  request.url += searchOf(query)
  applyAttack(request, attack, key)
  return request
}

function applyAttack(request: SentRequest, attack: Attack, key: string): void {
  if (attack.kind === 'method') request.method = attack.method
  if (attack.kind === 'headers') Object.assign(request.headers, attack.headers)
  if (attack.kind === 'content_type') request.headers['content-type'] = attack.type
  if (attack.kind === 'body') {
    request.headers['content-type'] = 'application/json'
    request.payload = attack.body
  }
  if (attack.kind !== 'key') return
  const { how } = attack
  const { authorization: _, ...others } = request.headers
  request.headers = others
  if (how === 'empty') request.headers.authorization = ''
  if (how === 'basic') request.headers.authorization = `Basic ${Buffer.from(`${key}:`).toString('base64')}`
  if (how === 'garbled') request.headers.authorization = `Bearer ${key.slice(0, -1)}${key.endsWith('x') ? 'y' : 'x'}`
  if (how === 'unknown') request.headers.authorization = 'Bearer cn_test_sk_\u0000'
  if (how === 'twice') request.headers.authorization = `Bearer ${key}, Bearer ${key}`
  if (how === 'query') request.url += `${request.url.includes('?') ? '&' : '?'}api_key=${key}`
}

/** Query values as text; the attack replaces or adds one. */
function queryOf({ operation, query, attack }: CallStep): SentRequest['query'] {
  const all: SentRequest['query'] = {}
  for (const [name, value] of Object.entries(query)) {
    all[name] = Array.isArray(value) ? value.map(String) : String(value instanceof Canary ? 'x' : value)
  }
  if (attack.kind !== 'query') return withoutWaits(all)
  const names = [
    ...operation.query.map(({ name }) => name),
    'api_key',
    '__proto__',
    'constructor',
    'LIMIT',
    'tag[]',
    '',
  ]
  const name = names[Number(attack.name) % names.length]!
  return withoutWaits({ ...all, [name]: attack.values.length === 1 ? attack.values[0]! : attack.values })
}

/** Sets the shortest timeout for long polls. */
function withoutWaits(query: SentRequest['query']): SentRequest['query'] {
  return 'wait_for' in query && !('timeout' in query) ? { ...query, timeout: '1' } : query
}

function searchOf(query: SentRequest['query']): string {
  const pairs = Object.entries(query).flatMap(([name, values]) => [values].flat().map((value) => [name, value]))
  return pairs.length === 0 ? '' : `?${pairs.map(([name, value]) => `${encode(name!)}=${encode(value!)}`).join('&')}`
}

/** Percent-encodes a text; a lone surrogate becomes bytes that are not valid UTF-8. */
function encode(text: string): string {
  return [...text].map((one) => (/\p{Cs}/u.test(one) ? '%ED%A0%80' : encodeURIComponent(one))).join('')
}

/** The path segments of parameters as the server decodes them. */
function sentPath(url: string, pattern: string): string[] {
  const sent = url.split('/')
  return pattern.split('/').flatMap((part, i) => (part.startsWith('{') ? [decode(sent[i]!)] : []))
}

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment)
  } catch {
    return segment
  }
}

/** Replaces the placeholders in a value. */
async function resolveAll(value: unknown, resolve: Resolve): Promise<unknown> {
  if (value instanceof Pick || value instanceof Canary) return resolve(value)
  if (Array.isArray(value)) return Promise.all(value.map((one) => resolveAll(one, resolve)))
  if (typeof value !== 'object' || value === null) return value
  const copy: Record<string, unknown> = {}
  for (const [key, child] of Object.entries(value)) define(copy, key, await resolveAll(child, resolve))
  return copy
}

/** Applies one mutation to the node number `at` of a body. */
function mutate(body: unknown, { at, change, key, value }: Mutation): unknown {
  const pointers = pointersOf(body)
  const pointer = pointers[at % pointers.length]!
  const edit = (node: unknown, [first, ...rest]: string[]): unknown => {
    if (first !== undefined) {
      if (Array.isArray(node)) return node.map((one, i) => (String(i) === first ? edit(one, rest) : one))
      const copy: Record<string, unknown> = {}
      for (const [name, child] of Object.entries(node as object)) {
        if (name !== first) define(copy, name, child)
        else if (rest.length > 0 || change !== 'remove') define(copy, name, edit(child, rest))
      }
      return copy
    }
    if (change !== 'add' || typeof node !== 'object' || node === null || Array.isArray(node)) return value
    const copy = { ...node } as Record<string, unknown>
    define(copy, key, value)
    return copy
  }
  return edit(body, pointer)
}

/** Pointers to all nodes of a value, the root first. */
function pointersOf(value: unknown, at: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null || value instanceof Pick || value instanceof Canary) return [at]
  return [at, ...Object.entries(value).flatMap(([key, child]) => pointersOf(child, [...at, key]))]
}

/** Sets a property, including one named __proto__. */
function define(object: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true })
}

/** The request as a curl command. */
export function curlOf({ method, url, headers, payload }: SentRequest): string {
  const quote = (text: string) =>
    `$'${text.replace(/[\\']/g, '\\$&').replace(/[^ -~]/gu, (one) => `\\u${one.codePointAt(0)!.toString(16).padStart(4, '0')}`)}'`
  const lines = Object.entries(headers).flatMap(([name, values]) =>
    [values].flat().map((value) => `-H ${quote(`${name}: ${value}`)}`),
  )
  const body = payload === undefined ? '' : ` --data-binary ${quote(cut(payload.toString()))}`
  return `curl -X ${method} ${lines.join(' ')}${body} ${quote(`http://127.0.0.1:8080${cut(url)}`)}`
}

const cut = (text: string) => (text.length > 2_000 ? `${text.slice(0, 2_000)}… (${text.length} characters)` : text)
