/**
 * What stands for the networks around a host, in a network namespace of its own: on every IP address a service that greets
 * over TCP and UDP, and a DNS server. Started by testing-egress.ts; ends with it.
 */
import { createSocket } from 'node:dgram'
import { greet } from './testing-greeting.ts'

const [port, dnsAddress, answer] = process.argv.slice(2) as [string, string, string]

await greet('0.0.0.0', Number(port))

const HEADER_BYTES = 12
const TYPE_A = 1

/** Every name has the same IPv4 address, and no other records. */
const dns = createSocket('udp4')
dns.on('message', (query, from) => {
  const end = query.indexOf(0, HEADER_BYTES) + 5
  const isA = query.readUInt16BE(end - 4) === TYPE_A
  const header = Buffer.from(query.subarray(0, HEADER_BYTES))
  header.writeUInt16BE(0x8180, 2)
  header.writeUInt16BE(isA ? 1 : 0, 6)
  header.writeUInt32BE(0, 8)
  const record = Buffer.from([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...answer.split('.').map(Number)])
  dns.send(
    Buffer.concat([header, query.subarray(HEADER_BYTES, end), ...(isA ? [record] : [])]),
    from.port,
    from.address,
  )
})
// The address is assigned once the namespace is connected.
process.stdin.on('end', () => process.exit())
process.stdin.once('data', () => dns.bind(53, dnsAddress, () => process.stdout.write('ready\n')))
