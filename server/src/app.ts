/**
 * The HTTP server, in the order in which a request meets it:
 *
 *   1. onRequest   request id, form of the address, key → principal, scope          (rate limits: next)
 *   2. parsing     JSON within its limits
 *   3. validation  by the route's schema
 *   4. preHandler                                                                   (idempotency: next)
 *   5. the handler of the resource
 *   6. onResponse  one line in the log
 *
 * Whatever goes wrong ends in one place, `answerError`, as a problem.
 */
import swagger from '@fastify/swagger'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import type { Deps } from './deps.ts'
import { acceptJson, BODY_LIMIT_BYTES, forgetTypeOfNothing } from './http/body.ts'
import { limitAnswerTime, limitBodyTime, TIMEOUTS, type Timeouts } from './http/deadlines.ts'
import { Pagination } from './http/list.ts'
import { createMethodTable } from './http/methods.ts'
import { openapiOptions, routeFaults } from './http/openapi.ts'
import { answerClientError, answerError, BAD_ESCAPE, Problem, writeProblem } from './http/problem.ts'
import { type Readiness, serviceRoutes } from './http/service.ts'
import type { App, Resource, TypeBoxProvider } from './http/types.ts'
import { buildValidator, schemaError } from './http/validation.ts'
import { createKeyLookup } from './keys/store.ts'
import { ApiError } from './lib/errors.ts'
import { newId } from './lib/id.ts'
import { resources as allResources } from './resources.ts'

const MAX_URL_BYTES = 8 * 1024
const MAX_HEADER_BYTES = 16 * 1024

export type AppOptions = {
  /** What must work before `/readyz` says yes. */
  ready: () => Promise<Readiness[]>
  resources?: Resource[]
  /** Others than those of http/deadlines.ts, for tests. */
  timeouts?: Partial<Timeouts>
}

/** The server with all its routes, not listening yet. */
export async function createApp(deps: Deps, options: AppOptions): Promise<App> {
  const { clock, log } = deps
  const timeouts = { ...TIMEOUTS, ...options.timeouts }
  const keys = createKeyLookup({ sql: deps.sql, clock, pepper: deps.secrets.pepper })
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
    connectionTimeout: timeouts.silence_ms,
    keepAliveTimeout: timeouts.keep_alive_ms,
    return503OnClosing: false,
    routerOptions: { maxParamLength: 100 },
    genReqId: (raw) => acceptedRequestId(raw.headers['x-request-id']) ?? newRequestId(),
    schemaController: { compilersFactory: { buildValidator: buildValidator as never } },
    schemaErrorFormatter: (errors, part) => schemaError(errors as never, part as never),
    frameworkErrors: (error, request, reply) => {
      identify(request, reply)
      answerError(log)(error, request, reply)
    },
    clientErrorHandler: answerClientError(newRequestId),
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

  /** Gives the request its two ids, and the answer the one that the client knows. */
  function identify(request: FastifyRequest, reply: FastifyReply): void {
    request.req_id = request.id.startsWith('req_') ? request.id : newRequestId()
    reply.header('x-request-id', request.id)
  }

  app.addHook('onRequest', (request, reply, done) => {
    identify(request, reply)
    checkAddress(request)
    forgetTypeOfNothing(request)
    limitBodyTime(request, reply, deps, timeouts)
    limitAnswerTime(request, reply, clock, timeouts)
    const { scope } = request.routeOptions.config
    if (scope === 'none' || request.is404) return done()
    const key = bearer(request.headers.authorization)
    const cached = key === null ? undefined : keys.cached(key)
    if (cached) {
      admit(cached)
      return done()
    }
    if (key === null) throw unauthorised()
    const found = keys.find(key).then((principal) => {
      if (principal === null) throw unauthorised()
      admit(principal)
    })
    found.then(() => done(), done)

    function admit(principal: typeof request.principal): void {
      request.principal = principal
      if (scope !== 'any' && !principal.scopes.includes(scope as string)) throw insufficientScope(scope as string)
      // Place of the rate limits: the principal is known, nothing has been read or done.
    }
  })

  app.addHook('onSend', (_request, reply, _payload, done) => {
    // Or the client would send its next request to a process that is about to end.
    if (deps.stopping.aborted) reply.header('connection', 'close')
    done()
  })

  app.addHook('onResponse', (request, reply, done) => {
    log.info(
      {
        request_id: request.id,
        req_id: request.req_id,
        method: request.method,
        route: request.routeOptions.url,
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

  app.setErrorHandler(answerError(log))
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

/** A client's own request id, unless it could be mistaken for one of ours. */
function acceptedRequestId(given: string | string[] | undefined): string | null {
  return typeof given === 'string' && /^(?!req_)[A-Za-z0-9._-]{1,128}$/.test(given) ? given : null
}

/** Refuses what no route could mean, before anything looks at it. */
function checkAddress(request: FastifyRequest): void {
  const { url = '', httpVersion } = request.raw
  if (url.length > MAX_URL_BYTES) throw new ApiError('uri_too_long', `The address may have ${MAX_URL_BYTES} bytes.`)
  if (url.includes('%00')) throw new ApiError('bad_request', 'The address holds a NUL character (%00); leave it out.')
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

function bearer(authorization: string | undefined): string | null {
  return authorization !== undefined && /^bearer /i.test(authorization) ? authorization.slice(7).trim() : null
}

function unauthorised(): ApiError {
  return new ApiError(
    'invalid_api_key',
    'Send a valid key: Authorization: Bearer cn_live_sk_… or cn_test_sk_…. A key that was revoked or has expired is not valid.',
    { headers: { 'www-authenticate': 'Bearer' } },
  )
}

function insufficientScope(scope: string): ApiError {
  return new ApiError('insufficient_scope', `This needs a key with the scope ${scope}.`, {
    extensions: { required_scope: scope },
  })
}
