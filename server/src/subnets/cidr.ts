/** Ranges of private IPv4 addresses. Pure. */

export type CidrError = { code: string; message: string }

/** Prefix lengths of subnets: from 13 to 65,533 IP addresses for instances. */
const MIN_PREFIX = 16
const MAX_PREFIX = 28
/** RFC 1918. */
const PRIVATE: [base: number, prefix: number][] = [
  [toNumber([10, 0, 0, 0]), 8],
  [toNumber([172, 16, 0, 0]), 12],
  [toNumber([192, 168, 0, 0]), 16],
]

/** The error in a range of a subnet, as the end of a sentence that begins with the name of the field; null if it is valid. */
export function cidrError(text: string): CidrError | null {
  const [, address, length] = /^(\d{1,3}(?:\.\d{1,3}){3})\/(\d{1,2})$/.exec(text) ?? []
  const octets = address?.split('.') ?? []
  const wellFormed = octets.every((octet) => Number(octet) <= 255 && String(Number(octet)) === octet)
  if (length === undefined || !wellFormed) {
    return { code: 'invalid', message: 'must be an IPv4 range, such as 10.1.0.0/24' }
  }
  const prefix = Number(length)
  const base = toNumber(octets.map(Number))
  const inside = PRIVATE.find(([start, bits]) => network(base, bits) === start)
  if (!inside || prefix < inside[1]) {
    return { code: 'not_private', message: 'must be within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16' }
  }
  if (prefix < MIN_PREFIX || prefix > MAX_PREFIX) {
    return { code: 'invalid_size', message: `must have a prefix from /${MIN_PREFIX} to /${MAX_PREFIX}` }
  }
  const start = network(base, prefix)
  if (start === base) return null
  const message = `must begin at the first IP address of the range: ${toText(start)}/${prefix}`
  return { code: 'not_canonical', message }
}

function toNumber(octets: number[]): number {
  return octets.reduce((sum, octet) => sum * 256 + octet, 0)
}

function toText(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.')
}

/** The first IP address of the range with this prefix that contains an IP address. */
function network(address: number, prefix: number): number {
  const size = 2 ** (32 - prefix)
  return address - (address % size)
}
