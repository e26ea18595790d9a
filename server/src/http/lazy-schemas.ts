/**
 * Route schemas are compiled when a request first needs them: compiling all of them takes longer than the rest of the
 * start. Equal schemas are compiled once. `compileWhenIdle` compiles the others while the process has nothing to do.
 */
import buildSerializer from 'fast-json-stringify'
import type { Clock } from '../lib/clock.ts'
import type { Log } from '../lib/log.ts'
import { buildValidator, type Validate } from './validation.ts'

type Serialize = (data: unknown) => string
type RouteSchema = { schema: unknown; method: string; url: string; httpPart?: string; httpStatus?: string }

export type RouteSchemas = {
  /** For Fastify's `schemaController`. */
  compilersFactory: {
    buildValidator(shared: unknown): (route: RouteSchema) => Validate
    buildSerializer(shared: unknown): (route: RouteSchema) => Serialize
  }
  /** Compiles one schema that has not been compiled yet; false when there is none left. */
  compileNext(): boolean
}

/** The schemas of one app. All of its shared schemas are known when the first route is set up. */
export function createRouteSchemas(): RouteSchemas {
  const pending = new Set<() => void>()
  const validators = onFirstUse(pending, buildValidator)
  const serializers = onFirstUse(
    pending,
    (shared) =>
      ({ schema }) =>
        buildSerializer(schema as never, { schema: shared as never }),
  )

  return {
    compilersFactory: {
      buildValidator: (shared) => {
        const validatorOf = validators(shared)
        return (route) => {
          const compiled = validatorOf(route)
          const validate: Validate = (data) => {
            const isValid = compiled()(data)
            validate.errors = compiled().errors ?? null
            return isValid
          }
          return validate
        }
      },
      buildSerializer: (shared) => {
        const serializerOf = serializers(shared)
        return (route) => {
          const compiled = serializerOf(route)
          return (data) => compiled()(data)
        }
      },
    },
    compileNext: () => {
      for (const compile of pending) {
        pending.delete(compile)
        compile()
        return true
      }
      return false
    },
  }
}

/** Makes functions that compile a route's schema at their first call. Fastify requests a compiler for each route. */
function onFirstUse<T>(pending: Set<() => void>, build: (shared: unknown) => (route: RouteSchema) => T) {
  let compile: ((route: RouteSchema) => T) | undefined
  const known = new Map<string, T>()
  return (shared: unknown) => (route: RouteSchema) => {
    let compiled: T | undefined
    const get = (): T => {
      if (compiled !== undefined) return compiled
      pending.delete(get)
      compile ??= build(shared)
      const key = `${route.httpPart === 'body'} ${JSON.stringify(route.schema)}`
      compiled = known.get(key) ?? named(route, compile)
      known.set(key, compiled)
      return compiled
    }
    pending.add(get)
    return get
  }
}

function named<T>(route: RouteSchema, compile: (route: RouteSchema) => T): T {
  try {
    return compile(route)
  } catch (error) {
    const part = route.httpPart ?? `response ${route.httpStatus}`
    const reason = (error as Error).message
    throw new Error(`The schema of ${route.method} ${route.url} (${part}) cannot be compiled: ${reason}`, {
      cause: error,
    })
  }
}

const PAUSE_MS = 20
/** Share of a pause in which the event loop may have work and still counts as idle. */
const IDLE_SHARE = 0.2

type Idle = {
  clock: Clock
  log: Log
  /** Ends it. */
  signal: AbortSignal
  /** Share of the time since its last call in which the event loop had work. */
  busyShare?: () => number
}

/** Compiles what is left, one schema at a time, each after a pause in which the event loop was idle. */
export async function compileWhenIdle(
  { compileNext }: RouteSchemas,
  { clock, log, signal, busyShare = eventLoopShare() }: Idle,
): Promise<void> {
  let isDone = false
  while (!isDone) {
    busyShare()
    await clock.sleep(PAUSE_MS, signal)
    if (signal.aborted) return
    if (busyShare() > IDLE_SHARE) continue
    try {
      isDone = !compileNext()
    } catch (error) {
      log.error({ error: (error as Error).message }, 'a route schema cannot be compiled')
    }
  }
}

function eventLoopShare(): () => number {
  let last = performance.eventLoopUtilization()
  return () => {
    const now = performance.eventLoopUtilization()
    const { utilization } = performance.eventLoopUtilization(now, last)
    last = now
    return utilization
  }
}
