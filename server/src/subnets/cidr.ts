/** Ranges of private IPv4 addresses. Pure. */
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

export type CidrError = { code: string; message: string }

/** Prefix lengths of subnets: from 13 to 65,533 IP addresses for instances. */
const MIN_PREFIX = 16
const MAX_PREFIX = 28
/** RFC 1918. */
const PRIVATE = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'].map((range) => ipaddr.IPv4.parseCIDR(range))

/** The error in a range of a subnet, as the end of a sentence that begins with the name of the field; null if it is valid. */
export function cidrError(text: string): CidrError | null {
  const [, address = '', length] = /^(\d{1,3}(?:\.\d{1,3}){3})\/(\d{1,2})$/.exec(text) ?? []
  if (isIP(address) === 0) return { code: 'invalid', message: 'must be an IPv4 range, such as 10.1.0.0/24' }
  const prefix = Number(length)
  const base = ipaddr.IPv4.parse(address)
  const inside = PRIVATE.find((range) => base.match(range))
  if (!inside || prefix < inside[1]) {
    return { code: 'not_private', message: 'must be within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16' }
  }
  if (prefix < MIN_PREFIX || prefix > MAX_PREFIX) {
    return { code: 'invalid_size', message: `must have a prefix from /${MIN_PREFIX} to /${MAX_PREFIX}` }
  }
  const start = ipaddr.IPv4.networkAddressFromCIDR(`${address}/${prefix}`).toString()
  if (start === address) return null
  const message = `must begin at the first IP address of the range: ${start}/${prefix}`
  return { code: 'not_canonical', message }
}
