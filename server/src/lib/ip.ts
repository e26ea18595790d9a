/** IP addresses and CIDR ranges, IPv4 and IPv6. Pure. */
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

type Range = ReturnType<typeof ipaddr.parseCIDR>

/** IPv4-mapped IPv6 (`::ffff:0:0/96`, RFC 4291, 2.5.5.2): the first 96 bits are fixed. */
const MAPPED_BITS = 96

/**
 * The canonical text of an IP address or CIDR range: `203.0.113.7`, `10.0.0.0/8`, `2001:db8::/32`. IPv4-mapped IPv6
 * becomes IPv4, as in `clientAddress`. An error is the end of a sentence that begins with the name of the field.
 */
export function canonicalRange(text: string): { range: string } | { error: string } {
  const network = networkOf(text)
  if (network === null)
    return { error: 'must be an IP address or a range, such as 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32' }
  const { range, isFirst } = network
  return isFirst ? { range } : { error: `must begin at the first IP address of the range: ${range}` }
}

/** The canonical range that contains an IP address or a range; whether the text names its first IP address. Null if invalid. */
export function networkOf(text: string): { range: string; isFirst: boolean } | null {
  const [, given, length] = /^([^/%]+)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  if (given === undefined || isIP(given) === 0) return null
  const original = ipaddr.parse(given)
  const address = ipaddr.process(given)
  const isMapped = original.kind() !== address.kind()
  const full = address.kind() === 'ipv6' ? 128 : 32
  const bits = length === undefined ? full : Number(length) - (isMapped ? MAPPED_BITS : 0)
  if (bits < 0 || bits > full) return null
  const network = address.kind() === 'ipv6' ? ipaddr.IPv6 : ipaddr.IPv4
  const first = network.networkAddressFromCIDR(`${address}/${bits}`).toString()
  const range = bits === full ? first : `${first}/${bits}`
  return { range, isFirst: first === address.toString() }
}

/** The IP address of a client in canonical form: IPv4-mapped IPv6 becomes IPv4. Null if it is not an IP address. */
export function clientAddress(text: string | undefined): string | null {
  if (text === undefined || isIP(text) === 0 || text.includes('%')) return null
  return ipaddr.process(text).toString()
}

/** Whether a canonical list of ranges (null: not restricted) contains the IP address of a client. */
export function isAllowedFrom(list: readonly string[] | null, address: string | null | undefined): boolean {
  if (list === null) return true
  const client = clientAddress(address ?? undefined)
  return client !== null && list.some((range) => contains(range, client))
}

/** Whether the outer range contains the inner one; both canonical. */
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
