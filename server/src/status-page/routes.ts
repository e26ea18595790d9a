import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Resource } from '../http/types.ts'

const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cache-control': 'no-cache',
}

/** The status page of one instance, at the URL in `console_url` and `links.console`. It requires an API key. */
export const statusPage: Resource = {
  schemas: [],
  routes(app) {
    const serve = (url: string, file: string, type: string) => {
      const content = readFileSync(join(import.meta.dirname, file), 'utf8')
      app.get(url, { config: { scope: 'none' }, schema: { hide: true } }, (_request, reply) =>
        reply.headers(HEADERS).type(`${type}; charset=utf-8`).send(content),
      )
    }
    serve('/console', 'index.html', 'text/html')
    serve('/console/instances/:id', 'status.html', 'text/html')
    serve('/console/status.css', 'status.css', 'text/css')
    serve('/console/status.js', 'status.js', 'text/javascript')
  },
}
