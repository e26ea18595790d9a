/**
 * The HTTP server, in the order of a request's stages:
 *
 *   1. onRequest   request ID, form of the URL, key → principal, IP address of the client, rate limits, scope
 *   2. parsing     JSON within its limits
 *   3. validation  by the route's schema
 *   4. the resource's handler; a write runs in writes/write.ts, which commits effect, audit entry and stored response together
 *   5. onResponse  one line in the log, one row in the request log
 *
 * Every error becomes a problem response in one place, `handleErrors`.
 */
import swagger from '@fastify/swagger'
import Fastify, {
  type FastifyError,
  type FastifyHttpOptions,
  type FastifyReply,
  type FastifyRequest,
  type RawServerDefault,
} from 'fastify'
import { auditRefusal } from './audit/refusal.ts'
import { createKeyWatch } from './authority/watch.ts'
import type { Deps } from './deps.ts'
import { acceptJson, BODY_LIMIT_BYTES, dropContentTypeOfEmptyBody, refuseContentEncoding } from './http/body.ts'
import { createResponseDeadline, limitBodyTime, TIMEOUTS, type Timeouts } from './http/deadlines.ts'
import { createRouteSchemas, type RouteSchemas } from './http/lazy-schemas.ts'
import { Pagination } from './http/list.ts'
import { createMethodTable } from './http/methods.ts'
import { openapiOptions, routeFaults } from './http/openapi.ts'
import { BAD_ESCAPE, Problem, sendClientError, sendProblem, toApiError, writeProblem } from './http/problem.ts'
import { type Readiness, serviceRoutes } from './http/service.ts'
import type { App, Resource, TypeBoxProvider } from './http/types.ts'
import { schemaError } from './http/validation.ts'
import { createAuthentication } from './keys/authentication.ts'
import { createKeyUsage } from './keys/usage.ts'
import { clientAddressOf } from './lib/client-address.ts'
import { ApiError } from './lib/errors.ts'
import { newId } from './lib/id.ts'
import { requestCounter } from './prometheus/http.ts'
import { createRateLimits } from './rate-limits/hook.ts'
import { recordWithoutHooks, requestRecorder } from './requests/hook.ts'
import { resources as allResources } from './resources.ts'

const MAX_URL_BYTES = 8 * 1024
const MAX_HEADER_BYTES = 16 * 1024

export type AppOptions = {
  /** Checked by `/readyz`. */
  ready: () => Promise<Readiness[]>
  resources?: Resource[]
  /** To compile the route schemas before a request needs them. */
  schemas?: RouteSchemas
  /** False: without the request log and the counters, to measure their cost. */
  recorded?: boolean
  /** Instead of those of http/deadlines.ts, for tests. */
  timeouts?: Partial<Timeouts>
}

type Methods = ReturnType<typeof createMethodTable>
type NewId = () => string

/** Creates the server with all its routes; it does not listen yet. */
export async function createApp(deps: Deps, options: AppOptions): Promise<App> {
  const timeouts = { ...TIMEOUTS, ...options.timeouts }
  const methods = createMethodTable()
  const newRequestId: NewId = () => newId('req', deps.random)
  const { compilersFactory } = options.schemas ?? createRouteSchemas()
  const app: App = Fastify({
    ...serverOptions(deps, timeouts, newRequestId),
    schemaController: { compilersFactory: compilersFactory as never },
  }).withTypeProvider<TypeBoxProvider>()
  app.decorateRequest('principal', null as never)
  app.decorateRequest('req_id', '')
  app.decorateRequest('client_address', null)
  app.decorateRequest('rate_limits', null as never)
  handleExpectAndConnect(app, methods, newRequestId)
  handleRequests(app, deps, timeouts, newRequestId, options.recorded ?? true)
  checkRoutes(app, methods)
  handleErrors(app, deps, methods)
  acceptJson(app)

  const resources = options.resources ?? allResources
  const tags = resources.flatMap(({ tag }) => tag ?? [])
  await app.register(swagger, openapiOptions(deps.config.version, deps.config.public_url, tags))
  serviceRoutes(app, options.ready)
  app.addSchema(Problem)
  app.addSchema(Pagination)
  for (const resource of resources) {
    for (const schema of resource.schemas) app.addSchema(schema)
    resource.routes(app, deps)
  }
  return app
}

function serverOptions(deps: Deps, timeouts: Timeouts, newRequestId: NewId) {
  return {
    bodyLimit: BODY_LIMIT_BYTES,
    http: {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: timeouts.headers_ms,
      // limitBodyTime enforces the deadline of the body, because uploads have a longer one.
      requestTimeout: 0,
      connectionsCheckingInterval: timeouts.check_ms,
      requireHostHeader: false,
    },
    connectionTimeout: timeouts.idle_ms,
    keepAliveTimeout: timeouts.keep_alive_ms,
    return503OnClosing: false,
    routerOptions: { maxParamLength: 100 },
    genReqId: (raw) => acceptedRequestId(raw.headers['x-request-id']) ?? newRequestId(),
    schemaErrorFormatter: (errors, part) => schemaError(errors as never, part as never),
    frameworkErrors: (error, request, reply) => {
      identify(deps, request, reply, newRequestId)
      recordWithoutHooks(deps, request, reply)
      sendProblem(deps.log)(error, request, reply)
    },
    clientErrorHandler: sendClientError(newRequestId),
  } satisfies FastifyHttpOptions<RawServerDefault>
}

/** Requests that Node's HTTP server does not pass on as such. */
function handleExpectAndConnect(app: App, methods: Methods, newRequestId: NewId): void {
  // A server may ignore unknown expectations (RFC 9110, 10.1.1); Node's default is a 417 without a body.
  app.server.on('checkExpectation', (request, response) => app.routing(request, response))
  // CONNECT is not supported; Node's default is to close the connection without a response.
  app.server.on('connect', ({ url = '', method = '', headers }, socket) => {
    socket.on('error', () => {})
    const req_id = newRequestId()
    const id = acceptedRequestId(headers['x-request-id']) ?? req_id
    writeProblem(socket, methods.missing(url, method), { id, req_id })
  })
}

/** One hook per stage, because each further hook adds to the time of every request. */
function handleRequests(app: App, deps: Deps, timeouts: Timeouts, newRequestId: NewId, recorded: boolean): void {
  const responseDeadline = createResponseDeadline(deps, timeouts)
  const limits = createRateLimits(deps)
  const watch = createKeyWatch(deps)
  const authenticate = createAuthentication({ keys: deps.keys, limits, usage: createKeyUsage(deps), watch })
  const recorder = recorded ? requestRecorder(app, deps) : null
  const count = recorder && requestCounter(deps.metrics)

  app.addHook('onRequest', (request, reply, done) => {
    identify(deps, request, reply, newRequestId)
    checkUrl(request)
    refuseContentEncoding(request)
    dropContentTypeOfEmptyBody(request)
    limitBodyTime(request, reply, deps, timeouts)
    responseDeadline.onRequest(reply)
    const pending = authenticate(request, reply)
    if (pending) void pending.then(() => done(), done)
    else done()
  })

  app.addHook('onSend', (request, reply, payload, done) => {
    // The client must not send its next request to a process that is about to end.
    if (deps.stopping.aborted) reply.header('connection', 'close')
    recorder?.sending(request, reply, payload)
    done()
  })

  app.addHook('onResponse', (request, reply, done) => {
    responseDeadline.onResponse(reply)
    watch.onResponse(request)
    const { url: route } = request.routeOptions
    recorder?.sent(request, reply)
    count?.(request, reply, route)
    deps.log.info(logFields(request, reply), 'request')
    done()
  })
  app.addHook('onClose', () => limits.close())
}

function logFields(request: FastifyRequest, reply: FastifyReply): object {
  return {
    request_id: request.id,
    req_id: request.req_id,
    method: request.method,
    route: request.routeOptions.url,
    status: reply.statusCode,
    ms: Math.round(reply.elapsedTime * 10) / 10,
    key_id: request.principal?.key_id,
  }
}

/** Rejects a route whose OpenAPI description is incomplete. */
function checkRoutes(app: App, methods: Methods): void {
  app.addHook('onRoute', (route) => {
    const faults = routeFaults(route as never)
    if (faults.length > 0) throw new Error(`${route.method} ${route.url} lacks ${faults.join(', ')}`)
    methods.add(route.url, route.method as string)
    // A route that declares no query parameters rejects all of them.
    route.schema = { querystring: { type: 'object', properties: {}, additionalProperties: false }, ...route.schema }
  })
}

function handleErrors(app: App, deps: Deps, methods: Methods): void {
  const { log } = deps
  app.setErrorHandler(async (thrown: FastifyError, request, reply) => {
    await auditRefusal(deps, request, toApiError(thrown)).catch((error: Error) => {
      log.error({ request_id: request.id, req_id: request.req_id, error: error.message }, 'cannot audit a refusal')
    })
    return sendProblem(log)(thrown, request, reply)
  })
  app.setNotFoundHandler((request) => {
    throw methods.missing(request.url, request.method)
  })
}

/** Sets the client and the two IDs of the request, and the response's header to the ID that the client may have chosen. */
function identify({ config }: Deps, request: FastifyRequest, reply: FastifyReply, newRequestId: NewId): void {
  const { socket, headers } = request.raw
  const forwardedFor = headers['x-forwarded-for']
  const list = Array.isArray(forwardedFor) ? forwardedFor.join() : forwardedFor
  request.client_address = clientAddressOf(socket?.remoteAddress, list, config.trusted_proxies)
  request.req_id = request.id.startsWith('req_') ? request.id : newRequestId()
  reply.header('x-request-id', request.id)
}

/** A request ID that the client chose; null if it could be mistaken for one that the server creates. */
function acceptedRequestId(given: string | string[] | undefined): string | null {
  return typeof given === 'string' && /^(?!req_)[A-Za-z0-9._-]{1,128}$/.test(given) ? given : null
}

/** Rejects URLs that no route can match. */
function checkUrl(request: FastifyRequest): void {
  const { url = '', httpVersion } = request.raw
  if (url.length > MAX_URL_BYTES) throw new ApiError('uri_too_long', `The request URL exceeds ${MAX_URL_BYTES} bytes.`)
  if (url.includes('%00')) throw new ApiError('bad_request', 'The URL contains a NUL character (%00); remove it.')
  if (url.includes('%') && !isDecodable(url)) throw new ApiError('bad_request', BAD_ESCAPE)
  if (request.headers.host === undefined && httpVersion === '1.1') {
    throw new ApiError('bad_request', 'The Host header is missing.')
  }
}

/** Query parsers pass on what they cannot decode, so that it would be searched for or stored. */
function isDecodable(url: string): boolean {
  try {
    decodeURIComponent(url)
    return true
  } catch {
    return false
  }
}
