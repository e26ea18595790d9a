/**
 * The HTTP server, in the order in which a request meets it:
 *
 *   1. onRequest   request id, form of the address, key → principal, client address, rate limits, scope
 *   2. parsing     JSON within its limits
 *   3. validation  by the route's schema
 *   4. the handler of the resource; that of a write goes by http/write.ts: effect, audit and stored answer are one
 *   5. onResponse  one line in the log, one row in the request log
 *
 * Whatever goes wrong ends in one place, `answerError`, as a problem.
 */
import swagger from '@fastify/swagger'
import Fastify, { type FastifyError, type FastifyReply, type FastifyRequest } from 'fastify'
import { auditRefusal } from './audit/refusal.ts'
import type { Deps, Principal } from './deps.ts'
import { bearer } from './http/bearer.ts'
import { acceptJson, BODY_LIMIT_BYTES, dropContentTypeOfEmptyBody } from './http/body.ts'
import { createResponseDeadline, limitBodyTime, TIMEOUTS, type Timeouts } from './http/deadlines.ts'
import { createRouteSchemas, type RouteSchemas } from './http/lazy-schemas.ts'
import { Pagination } from './http/list.ts'
import { createMethodTable } from './http/methods.ts'
import { openapiOptions, routeFaults } from './http/openapi.ts'
import { BAD_ESCAPE, Problem, sendClientError, sendProblem, toApiError, writeProblem } from './http/problem.ts'
import { type Readiness, serviceRoutes } from './http/service.ts'
import type { App, Resource, TypeBoxProvider } from './http/types.ts'
import { schemaError } from './http/validation.ts'
import { isAllowedFrom } from './keys/addresses.ts'
import { addressNotAllowed, insufficientScope, invalidApiKey } from './keys/refusals.ts'
import { createKeyUsage } from './keys/usage.ts'
import { ApiError } from './lib/errors.ts'
import { newId } from './lib/id.ts'
import { requestCounter } from './prometheus/http.ts'
import { createRateLimits } from './rate-limits/hook.ts'
import { recordWithoutHooks, requestRecorder } from './requests/hook.ts'
import { resources as allResources } from './resources.ts'

const MAX_URL_BYTES = 8 * 1024
const MAX_HEADER_BYTES = 16 * 1024

export type AppOptions = {
  /** What must work before `/readyz` says yes. */
  ready: () => Promise<Readiness[]>
  resources?: Resource[]
  /** To compile the route schemas before a request needs them. */
  schemas?: RouteSchemas
  /** False: without the request log and the counters, to measure what they cost. */
  recorded?: boolean
  /** Others than those of http/deadlines.ts, for tests. */
  timeouts?: Partial<Timeouts>
}

/** The server with all its routes, not listening yet. */
export async function createApp(deps: Deps, options: AppOptions): Promise<App> {
  const { clock, log, keys } = deps
  const timeouts = { ...TIMEOUTS, ...options.timeouts }
  const responseDeadline = createResponseDeadline(clock, timeouts)
  const limits = createRateLimits(deps)
  const usage = createKeyUsage(deps)
  const methods = createMethodTable()
  const newRequestId = () => newId('req', deps.random)

  const app: App = Fastify({
    bodyLimit: BODY_LIMIT_BYTES,
    http: {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: timeouts.headers_ms,
      // The body's deadline is kept by limitBodyTime, because an upload has another one.
      requestTimeout: 0,
      connectionsCheckingInterval: timeouts.check_ms,
      requireHostHeader: false,
    },
    connectionTimeout: timeouts.idle_ms,
    keepAliveTimeout: timeouts.keep_alive_ms,
    return503OnClosing: false,
    // An empty list trusts nobody: then the client is whoever holds the socket.
    trustProxy: deps.config.trusted_proxies.length > 0 ? deps.config.trusted_proxies : false,
    routerOptions: { maxParamLength: 100 },
    genReqId: (raw) => acceptedRequestId(raw.headers['x-request-id']) ?? newRequestId(),
    schemaController: { compilersFactory: (options.schemas ?? createRouteSchemas()).compilersFactory as never },
    schemaErrorFormatter: (errors, part) => schemaError(errors as never, part as never),
    frameworkErrors: (error, request, reply) => {
      identify(request, reply)
      recordWithoutHooks(deps, request, reply)
      sendProblem(log)(error, request, reply)
    },
    clientErrorHandler: sendClientError(newRequestId),
  }).withTypeProvider<TypeBoxProvider>()

  // An expectation that nobody knows may be ignored (RFC 9110, 10.1.1); Node would answer it without a body.
  app.server.on('checkExpectation', (request, response) => app.routing(request, response))
  // A tunnel is what nobody gets here; Node would close the connection without a word.
  app.server.on('connect', ({ url = '', method = '', headers }, socket) => {
    socket.on('error', () => {})
    const req_id = newRequestId()
    const id = acceptedRequestId(headers['x-request-id']) ?? req_id
    writeProblem(socket, methods.missing(url, method), { id, req_id })
  })
  app.decorateRequest('principal', null as never)
  app.decorateRequest('req_id', '')
  app.decorateRequest('rate_limits', null as never)
  app.addHook('onClose', () => limits.close())

  /** Gives the request its two ids, and the answer the one that the client knows. */
  function identify(request: FastifyRequest, reply: FastifyReply): void {
    request.req_id = request.id.startsWith('req_') ? request.id : newRequestId()
    reply.header('x-request-id', request.id)
  }

  app.addHook('onRequest', (request, reply, done) => {
    identify(request, reply)
    checkAddress(request)
    dropContentTypeOfEmptyBody(request)
    limitBodyTime(request, reply, deps, timeouts)
    responseDeadline.onRequest(reply)
    const { scope, limits: classes } = request.routeOptions.config
    if (scope === 'none' || request.is404) {
      if (classes?.length !== 0) limits.unauthenticated(request, reply)
      return done()
    }
    const key = bearer(request.headers.authorization)
    const cached = key === null ? undefined : keys.cached(key)
    if (cached) {
      const pending = admit(cached)
      return pending ? void pending.then(() => done(), done) : done()
    }
    if (key === null) {
      limits.failed(request, reply)
      throw invalidApiKey()
    }
    const found = limits.lookUp(request, reply, key, keys.find).then((principal) => {
      if (principal === null) throw invalidApiKey()
      return admit(principal)
    })
    found.then(() => done(), done)

    /** Answers nothing when all is decided at once. The limits come first: what a key may not do is asked for, too. */
    function admit(principal: typeof request.principal): Promise<void> | undefined {
      request.principal = principal
      const { allowed_addresses } = principal
      if (allowed_addresses !== null && !isAllowedFrom(allowed_addresses, request.ip)) throw addressNotAllowed()
      usage.record(principal.key_id, request.ip)
      const pending = limits.spend(request, reply, classes)
      if (pending) return pending.then(() => checkScope(principal, scope))
      checkScope(principal, scope)
      return undefined
    }
  })

  // One hook of each kind: every further one costs each request.
  const recorder = (options.recorded ?? true) ? requestRecorder(app, deps) : null
  const count = recorder && requestCounter(deps.metrics)

  app.addHook('onSend', (request, reply, payload, done) => {
    // Or the client would send its next request to a process that is about to end.
    if (deps.stopping.aborted) reply.header('connection', 'close')
    recorder?.sending(request, reply, payload)
    done()
  })

  app.addHook('onResponse', (request, reply, done) => {
    responseDeadline.onResponse(reply)
    const { url: route } = request.routeOptions
    recorder?.sent(request, reply)
    count?.(request, reply, route)
    log.info(
      {
        request_id: request.id,
        req_id: request.req_id,
        method: request.method,
        route,
        status: reply.statusCode,
        ms: Math.round(reply.elapsedTime * 10) / 10,
        key_id: request.principal?.key_id,
      },
      'request',
    )
    done()
  })

  app.addHook('onRoute', (route) => {
    const faults = routeFaults(route as never)
    if (faults.length > 0) throw new Error(`${route.method} ${route.url} lacks ${faults.join(', ')}`)
    methods.add(route.url, route.method as string)
    // Without a declared parameter every parameter is unknown, and said to be.
    route.schema = { querystring: { type: 'object', properties: {}, additionalProperties: false }, ...route.schema }
  })

  app.setErrorHandler(async (thrown: FastifyError, request, reply) => {
    await auditRefusal(deps, request, toApiError(thrown)).catch((error: Error) => {
      log.error({ request_id: request.id, req_id: request.req_id, error: error.message }, 'a refusal was not audited')
    })
    return sendProblem(log)(thrown, request, reply)
  })
  app.setNotFoundHandler((request) => {
    throw methods.missing(request.url, request.method)
  })
  acceptJson(app)

  await app.register(swagger, openapiOptions(deps.config.version, deps.config.public_url))
  serviceRoutes(app, options.ready)
  app.addSchema(Problem)
  app.addSchema(Pagination)
  for (const resource of options.resources ?? allResources) {
    for (const schema of resource.schemas) app.addSchema(schema)
    resource.routes(app, deps)
  }
  return app
}

function checkScope({ scopes }: Principal, scope: string | undefined): void {
  if (scope !== 'any' && !scopes.includes(scope as string)) throw insufficientScope(scope as string)
}

/** A client's own request id, unless it could be mistaken for one of ours. */
function acceptedRequestId(given: string | string[] | undefined): string | null {
  return typeof given === 'string' && /^(?!req_)[A-Za-z0-9._-]{1,128}$/.test(given) ? given : null
}

/** Refuses what no route could mean, before anything looks at it. */
function checkAddress(request: FastifyRequest): void {
  const { url = '', httpVersion } = request.raw
  if (url.length > MAX_URL_BYTES) throw new ApiError('uri_too_long', `The request URL exceeds ${MAX_URL_BYTES} bytes.`)
  if (url.includes('%00')) throw new ApiError('bad_request', 'The URL contains a NUL character (%00); remove it.')
  if (url.includes('%') && !isDecodable(url)) throw new ApiError('bad_request', BAD_ESCAPE)
  if (request.headers.host === undefined && httpVersion === '1.1') {
    throw new ApiError('bad_request', 'The Host header is missing.')
  }
}

/** Parsers of queries leave what they cannot decode as it is, so it would be searched for, or stored. */
function isDecodable(url: string): boolean {
  try {
    decodeURIComponent(url)
    return true
  } catch {
    return false
  }
}
