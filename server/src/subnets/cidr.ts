/** Ranges of private IPv4 addresses. Pure. */

export type CidrFault = { code: string; message: string }

/** Sizes that a subnet may have: from 13 to 65,533 addresses for instances. */
const WIDEST = 16
const NARROWEST = 28
/** RFC 1918. */
const PRIVATE: [base: number, prefix: number][] = [
  [toNumber([10, 0, 0, 0]), 8],
  [toNumber([172, 16, 0, 0]), 12],
  [toNumber([192, 168, 0, 0]), 16],
]

/** What is wrong with a range for a subnet, as the end of a sentence that begins with the field; null: nothing. */
export function cidrFault(text: string): CidrFault | null {
  const [, address, length] = /^(\d{1,3}(?:\.\d{1,3}){3})\/(\d{1,2})$/.exec(text) ?? []
  const octets = address?.split('.') ?? []
  const wellFormed = octets.every((octet) => Number(octet) <= 255 && String(Number(octet)) === octet)
  if (length === undefined || !wellFormed) {
    return { code: 'invalid', message: 'must be an IPv4 range such as 10.1.0.0/24' }
  }
  const prefix = Number(length)
  const base = toNumber(octets.map(Number))
  const inside = PRIVATE.find(([start, bits]) => network(base, bits) === start)
  if (!inside || prefix < inside[1]) {
    return { code: 'not_private', message: 'must be within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16' }
  }
  if (prefix < WIDEST || prefix > NARROWEST) {
    return { code: 'invalid_size', message: `must have a prefix from /${WIDEST} to /${NARROWEST}` }
  }
  const start = network(base, prefix)
  if (start === base) return null
  const message = `must begin at the first address of the range: ${toText(start)}/${prefix}`
  return { code: 'not_canonical', message }
}

function toNumber(octets: number[]): number {
  return octets.reduce((sum, octet) => sum * 256 + octet, 0)
}

function toText(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.')
}

/** The first address of the range with this prefix around an address. */
function network(address: number, prefix: number): number {
  const size = 2 ** (32 - prefix)
  return address - (address % size)
}
