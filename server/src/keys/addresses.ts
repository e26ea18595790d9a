/** From where a key may be used: lists of addresses and CIDRs, v4 and v6. Pure. */
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

type Range = ReturnType<typeof ipaddr.parseCIDR>

/** IPv4 inside IPv6 (`::ffff:0:0/96`, RFC 4291, 2.5.5.2): the first 96 bits are fixed. */
const MAPPED_BITS = 96

/**
 * The canonical text of an address or CIDR: `203.0.113.7`, `10.0.0.0/8`, `2001:db8::/32`. IPv4 inside IPv6 becomes
 * IPv4, because that is what the client's address becomes. A fault is the end of a sentence that begins with the field.
 */
export function canonicalRange(text: string): { range: string } | { fault: string } {
  const invalid = { fault: 'must be an address or a range such as 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32' }
  const [, address, length] = /^([^/%]+)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  if (address === undefined || isIP(address) === 0) return invalid
  const given = ipaddr.parse(address)
  const plain = ipaddr.process(address)
  const mapped = given.kind() !== plain.kind()
  const full = plain.kind() === 'ipv6' ? 128 : 32
  const bits = length === undefined ? full : Number(length) - (mapped ? MAPPED_BITS : 0)
  if (bits < 0 || bits > full) return invalid
  const network = plain.kind() === 'ipv6' ? ipaddr.IPv6 : ipaddr.IPv4
  const start = network.networkAddressFromCIDR(`${plain}/${bits}`).toString()
  const range = bits === full ? start : `${start}/${bits}`
  return start === plain.toString() ? { range } : { fault: `must begin at the first address of the range: ${range}` }
}

/** The address of a client as it is compared and stored: IPv4 inside IPv6 becomes IPv4. Null: not an address. */
export function clientAddress(text: string | undefined): string | null {
  if (text === undefined || isIP(text) === 0 || text.includes('%')) return null
  return ipaddr.process(text).toString()
}

/** Whether a key with this list (canonical; null: no list) may be used from an address. */
export function isAllowedFrom(list: readonly string[] | null, address: string | undefined): boolean {
  if (list === null) return true
  const client = clientAddress(address)
  return client !== null && list.some((range) => contains(range, client))
}

/** Whether every address of the range is in the other one; both canonical. */
export function contains(outer: string, inner: string): boolean {
  const [base, bits] = parse(outer)
  const [address, innerBits] = parse(inner)
  return base.kind() === address.kind() && innerBits >= bits && address.match(base, bits)
}

function parse(range: string): Range {
  if (range.includes('/')) return ipaddr.parseCIDR(range)
  const address = ipaddr.parse(range)
  return [address, address.kind() === 'ipv6' ? 128 : 32]
}
