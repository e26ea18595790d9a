/**
 * The guard for requests to destinations that tenants choose: image sources and webhooks.
 *
 * A name can resolve to a private network, resolve differently the second time, or be an IP literal in disguise: a URL
 * parser reads `0x7f.1`, `2130706433` and full-width digits as 127.0.0.1, and a resolver hook is not called for
 * literals. Therefore no decision depends on the text: the WHATWG parser makes the host canonical, every IP address
 * (literal or resolved) must be allowed, and the connection goes to exactly those addresses (outbound-connection.ts).
 * The error message is the same for every reason, so that a tenant cannot map a network with it; the log has the reason.
 */
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/** Returns all IP addresses of a name. Throws if the name does not resolve. */
export type Resolve = (hostname: string) => Promise<string[]>

/** Which destinations are allowed. */
export type OutboundPolicy = {
  /** `allowed_addresses`: only if the operator allows all IP addresses of the host. */
  allowHttp: boolean | 'allowed_addresses'
  /** CIDR ranges and IP addresses that the operator allows in addition to public unicast. */
  allowedAddresses: readonly string[]
  dnsTimeoutMs: number
  /** Defaults to the system's resolver. */
  resolve?: Resolve
}

/** A checked URL and the only IP addresses to which a connection for it may be made. */
export type Destination = { url: URL; addresses: string[] }

const messages = {
  destination_not_allowed: 'destination not allowed',
  name_not_resolved: 'host name could not be resolved',
  too_many_redirects: 'too many redirects',
}

/** A request that was not sent. `message` is for the client, `detail` only for the log. */
export class OutboundError extends Error {
  readonly code: keyof typeof messages
  readonly detail: string
  constructor(code: keyof typeof messages, detail: string) {
    super(messages[code])
    this.name = 'OutboundError'
    this.code = code
    this.detail = detail
  }
}

const refuse = (detail: string) => new OutboundError('destination_not_allowed', detail)

type Range = ReturnType<typeof ipaddr.parseCIDR>

/** Parses a CIDR range or an IP address of the operator's configuration. Throws TypeError if it is invalid. */
export function parseRange(text: string): Range {
  try {
    const range = text.includes('/') ? text : `${text}/${isIP(text) === 6 ? 128 : 32}`
    if (isIP(range.split('/')[0]!) === 0) throw new TypeError('not an address')
    return ipaddr.parseCIDR(range)
  } catch {
    throw new TypeError(`not an address range: ${JSON.stringify(text)}`)
  }
}

/** Whether an IP address is public unicast or in a range that the operator allows; false for any other text. */
export function isAddressAllowed(address: string, allowedAddresses: readonly string[]): boolean {
  if (isIP(address) === 0 || address.includes('%')) return false
  if (isWithin(address, allowedAddresses)) return true
  const parsed = ipaddr.process(address)
  if (parsed.range() !== 'unicast') return false
  // The library also returns "unicast" for ranges that it does not know, such as `::127.0.0.1`.
  // Global IPv6 unicast is 2000::/3 (RFC 4291, 2.4; IANA's IPv6 address space registry).
  return parsed.kind() === 'ipv4' || parsed.match(ipaddr.parseCIDR('2000::/3'))
}

/** Whether an IP address is in one of these ranges. */
function isWithin(address: string, ranges: readonly string[]): boolean {
  if (isIP(address) === 0 || address.includes('%')) return false
  const parsed = ipaddr.process(address)
  return ranges.map(parseRange).some(([base, bits]) => base.kind() === parsed.kind() && parsed.match(base, bits))
}

/** Parses a URL and checks everything except for the IP addresses of its host. Throws OutboundError. */
export function parseDestination(input: string | URL, allowHttp: OutboundPolicy['allowHttp']): URL {
  const url = URL.parse(String(input))
  if (url === null) throw refuse('not a URL')
  if (url.protocol !== 'https:' && !(url.protocol === 'http:' && allowHttp)) throw refuse(`scheme ${url.protocol}`)
  if (url.username !== '' || url.password !== '') throw refuse('user information in the URL')
  if (url.href.includes('#')) throw refuse('fragment in the URL')
  const port = url.port === '' ? null : Number(url.port)
  if (port !== null && port !== 80 && port !== 443 && port < 1024) throw refuse(`port ${port}`)
  return url
}

/** The checked URL of a redirect, never from https to http. Throws OutboundError. */
export function nextHop(current: URL, location: string, allowHttp: OutboundPolicy['allowHttp']): URL {
  const url = URL.parse(location, current)
  if (url === null) throw refuse('redirect to an invalid URL')
  url.hash = ''
  if (current.protocol === 'https:' && url.protocol === 'http:') throw refuse('redirect from https to http')
  return parseDestination(url, allowHttp)
}

/** Resolves the host of a URL once and checks every IP address. Throws OutboundError or the signal's reason. */
export async function checkDestination(
  input: string | URL,
  policy: OutboundPolicy,
  signal?: AbortSignal,
): Promise<Destination> {
  const url = parseDestination(input, policy.allowHttp)
  const literal = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const isLocalhost = LOCALHOST.test(url.hostname)
  const found = isIP(literal) ? [literal] : isLocalhost ? LOOPBACKS : await resolveName(url.hostname, policy, signal)
  const needsOperator = url.protocol === 'http:' && policy.allowHttp === 'allowed_addresses'
  const passes = needsOperator ? isWithin : isAddressAllowed
  // Each service listens on one of the two, and the operator may allow one only.
  const allowed = found.filter((address) => passes(address, policy.allowedAddresses))
  const addresses = isLocalhost && allowed.length > 0 ? allowed : found
  const bad = addresses.find((address) => !passes(address, policy.allowedAddresses))
  if (bad !== undefined) throw refuse(`${url.hostname} is ${bad}`)
  return { url, addresses }
}

/** RFC 6761, 6.3: these names are loopback; some resolvers query a name server for them nevertheless. */
const LOCALHOST = /(^|\.)localhost\.?$/
const LOOPBACKS = ['127.0.0.1', '::1']

async function resolveName(hostname: string, policy: OutboundPolicy, signal?: AbortSignal): Promise<string[]> {
  const deadline = AbortSignal.timeout(policy.dnsTimeoutMs)
  try {
    const either = signal === undefined ? deadline : AbortSignal.any([deadline, signal])
    const addresses = await unlessAborted((policy.resolve ?? systemResolve)(hostname), either)
    if (addresses.length === 0) throw new Error('no addresses')
    return [...new Set(addresses)]
  } catch (error) {
    signal?.throwIfAborted()
    throw new OutboundError('name_not_resolved', `${hostname}: ${deadline.aborted ? 'timed out' : error}`)
  }
}

const systemResolve: Resolve = async (hostname) => (await lookup(hostname, { all: true })).map((entry) => entry.address)

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    work.then(resolve, reject)
  })
}
