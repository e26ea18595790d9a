/** A webhook receiver in a process of its own. Sends its port to its parent and, on the message `times`, when each ID arrived. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

let arrivals: Record<string, number> = {}
let count = 0
const now = () => performance.timeOrigin + performance.now()

const server = createServer((request, response) => {
  const at = now()
  const id = String(request.headers['webhook-id'])
  // A receiver that hangs: it never responds.
  if (request.url === '/hangs') return
  request.resume().on('end', () => {
    count++
    arrivals[id] ??= at
    response.writeHead(204).end()
  })
})
server.listen(0, '127.0.0.1', () => process.send!({ port: (server.address() as AddressInfo).port }))
process.on('message', (message) => {
  process.send!(message === 'times' ? arrivals : { count })
  if (message === 'times') [arrivals, count] = [{}, 0]
})
process.on('disconnect', () => process.exit())
