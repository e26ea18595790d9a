import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Counter, Histogram, Metrics } from '../lib/metrics.ts'

type Route = { seconds: Histogram; classes: (Counter | undefined)[] }

/** Counts and times requests by route and method. No label contains text of a client. */
export function requestCounter(
  metrics: Metrics,
): (request: FastifyRequest, reply: FastifyReply, route: string | undefined) => void {
  const routes = new Map<string, Map<string, Route>>()

  function find(route: string, method: string): Route {
    const methods = routes.get(route) ?? new Map<string, Route>()
    routes.set(route, methods)
    const seconds = metrics.histogram(
      'cloudnexus_http_request_seconds',
      'Time until the response was sent, in seconds.',
      {
        method,
        route,
      },
    )
    const found = { seconds, classes: [] }
    methods.set(method, found)
    return found
  }

  return (request, reply, route = 'none') => {
    const { method } = request
    const { seconds, classes } = routes.get(route)?.get(method) ?? find(route, method)
    const status = Math.floor(reply.statusCode / 100)
    classes[status] ??= metrics.counter('cloudnexus_http_requests_total', 'HTTP requests that were answered.', {
      method,
      route,
      status: `${status}xx`,
    })
    classes[status].add()
    seconds.observe(reply.elapsedTime / 1000)
  }
}
