import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'

const GREETING = 'hello\n'
/** The first block of a file, and its last because it is short (TFTP, RFC 1350). */
const FIRST_BLOCK = Buffer.concat([Buffer.from([0, 3, 0, 1]), Buffer.from(GREETING)])
const READ_REQUEST = 1

/** A service that greets over TCP, and over UDP as a TFTP server: the guests have no other UDP client for any port. */
export async function greet(address: string, port: number): Promise<void> {
  const tcp = createServer((socket) => socket.on('error', () => {}).end(GREETING)).listen(port, address)
  await once(tcp, 'listening')
  const udp = createSocket('udp4').bind(port, address)
  udp.on('message', (message, from) => {
    if (message.readUInt16BE(0) === READ_REQUEST) udp.send(FIRST_BLOCK, from.port, from.address)
  })
  await once(udp, 'listening')
}
