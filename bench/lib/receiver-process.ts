/** A receiver of webhooks in a process of its own: tells its port, and when asked for `times` when each id has arrived. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

let arrivals: Record<string, number> = {}
let count = 0
const now = () => performance.timeOrigin + performance.now()

const server = createServer((request, response) => {
  const at = now()
  const id = String(request.headers['webhook-id'])
  // Nobody answers here: a receiver that hangs.
  if (request.url === '/hangs') return
  request.resume().on('end', () => {
    count++
    arrivals[id] ??= at
    response.writeHead(204).end()
  })
})
server.listen(0, '127.0.0.1', () => process.send!({ port: (server.address() as AddressInfo).port }))
process.on('message', (asked) => {
  process.send!(asked === 'times' ? arrivals : { count })
  if (asked === 'times') [arrivals, count] = [{}, 0]
})
process.on('disconnect', () => process.exit())
