import { createServer, type Server } from 'node:http'
import { StartupError } from '../lib/errors.ts'
import { MEDIA_TYPE, type Metrics } from '../lib/metrics.ts'

/**
 * Serves only `GET /metrics`, without a key. The operator chooses an IP address that only Prometheus can reach.
 * @param listen `address:port`
 */
export async function listenForPrometheus(metrics: Metrics, listen: string): Promise<Server> {
  const colon = listen.lastIndexOf(':')
  const host = listen.slice(0, colon).replace(/^\[(.*)\]$/, '$1')
  const port = Number(listen.slice(colon + 1))
  const server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000 }, (request, response) => {
    const found = request.method === 'GET' && request.url?.split('?', 1)[0] === '/metrics'
    if (!found) return void response.writeHead(404).end()
    metrics.render().then(
      (text) => response.writeHead(200, { 'content-type': MEDIA_TYPE }).end(text),
      () => response.writeHead(500).end(),
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      reject(
        new StartupError(
          `metrics_listen: ${listen} cannot be bound (${error.code}). Choose another IP address or port.`,
        ),
      )
    })
    server.listen({ host, port }, resolve)
  })
  return server
}
