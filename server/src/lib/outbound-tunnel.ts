/** A tunnel through the operator's HTTP proxy (CONNECT, RFC 9110, 9.3.6) to a checked IP address. */
import { connect, isIP, type Socket } from 'node:net'

const MAX_HEAD_BYTES = 8_192

/** The proxy did not open the tunnel. */
class TunnelError extends Error {}

/** Opens a tunnel; calls `callback` once, with its socket or an error. */
export function openTunnel(
  proxy: { host: string; port: number },
  { address, port }: { address: string; port: number },
  timeoutMs: number,
  callback: (...result: [error: Error, socket: null] | [error: null, socket: Socket]) => void,
): Socket {
  const authority = `${isIP(address) === 6 ? `[${address}]` : address}:${port}`
  const socket = connect({ host: proxy.host, port: proxy.port })
  let head = Buffer.alloc(0)
  const deadline = AbortSignal.timeout(timeoutMs)
  const late = () => finish(new TunnelError('the proxy does not respond'))
  const finish = (error: Error | null) => {
    deadline.removeEventListener('abort', late)
    socket.removeAllListeners()
    if (!error) return callback(null, socket)
    socket.on('error', () => {})
    socket.destroy()
    callback(error, null)
  }
  deadline.addEventListener('abort', late)
  socket.on('error', finish)
  socket.on('close', () => finish(new TunnelError('the proxy closed the connection')))
  socket.on('connect', () => socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`))
  socket.on('readable', () => {
    for (let chunk = socket.read(1); chunk !== null; chunk = socket.read(1)) {
      head = Buffer.concat([head, chunk])
      const whole = head.subarray(-4).equals(Buffer.from('\r\n\r\n'))
      if (head.length > MAX_HEAD_BYTES) return finish(new TunnelError('the proxy says too much'))
      if (!whole) continue
      const opened = /^HTTP\/1\.[01] 2\d\d[ \r]/.test(head.toString('latin1'))
      return finish(opened ? null : new TunnelError('the proxy refuses'))
    }
  })
  return socket
}
