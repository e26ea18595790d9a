/**
 * The guard for every request whose destination somebody else chose: image sources, webhooks.
 *
 * Why it looks like this. A name can resolve to our own network, resolve differently the second time, or not be a name
 * at all: `0x7f.1`, `2130706433` and full-width digits are all 127.0.0.1 to a URL parser, and a resolver hook is never
 * called for a literal. So nothing here looks at strings: the WHATWG parser makes the host canonical, every address
 * (literal or resolved, all of them) must pass an allow test, and the connection is made to exactly the addresses that
 * passed (outbound-request.ts). The caller's text is the same for every reason, so nobody can map a network with it;
 * the reason goes to our log.
 */
import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'

/** Names to addresses: all of them, as text. Throws when the name does not resolve. */
export type Resolve = (hostname: string) => Promise<string[]>

/** What may be asked, and how long a name may take. */
export type OutboundPolicy = {
  /** `allowed_addresses`: only where all addresses are among those that the operator allows. */
  allowHttp: boolean | 'allowed_addresses'
  /** CIDRs (or single addresses) which the operator allows beyond public unicast. */
  allowedAddresses: readonly string[]
  dnsTimeoutMs: number
  /** Defaults to the system's resolver. */
  resolve?: Resolve
}

/** A checked URL with the only addresses that may be connected to for it. */
export type Destination = { url: URL; addresses: string[] }

const messages = {
  destination_not_allowed: 'destination not allowed',
  name_not_resolved: 'host name could not be resolved',
  too_many_redirects: 'too many redirects',
}

/** A request that was not made. `message` is fit for the caller, `detail` is for our log only. */
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

/** Parses a CIDR or a single address. Throws TypeError on anything else: it is the operator's own configuration. */
export function parseRange(text: string): Range {
  try {
    const range = text.includes('/') ? text : `${text}/${isIP(text) === 6 ? 128 : 32}`
    if (isIP(range.split('/')[0]!) === 0) throw new TypeError('not an address')
    return ipaddr.parseCIDR(range)
  } catch {
    throw new TypeError(`not an address range: ${JSON.stringify(text)}`)
  }
}

/** Whether an address (dotted or colon form, nothing older) is public unicast or in a range the operator allows. */
export function isAddressAllowed(address: string, allowedAddresses: readonly string[]): boolean {
  if (isIP(address) === 0 || address.includes('%')) return false
  if (isWithin(address, allowedAddresses)) return true
  const parsed = ipaddr.process(address)
  if (parsed.range() !== 'unicast') return false
  // "unicast" is also what the library calls everything it has no name for, `::127.0.0.1` included.
  // Global IPv6 unicast is 2000::/3 (RFC 4291, 2.4; IANA's IPv6 address space registry).
  return parsed.kind() === 'ipv4' || parsed.match(ipaddr.parseCIDR('2000::/3'))
}

/** Whether an address is in one of these ranges. */
function isWithin(address: string, ranges: readonly string[]): boolean {
  if (isIP(address) === 0 || address.includes('%')) return false
  const parsed = ipaddr.process(address)
  return ranges.map(parseRange).some(([base, bits]) => base.kind() === parsed.kind() && parsed.match(base, bits))
}

/** Parses and checks everything about a URL that needs no resolver. Throws OutboundError. */
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

/** The URL of a redirect's next hop: checked like the first, and never from https to http. Throws OutboundError. */
export function nextHop(current: URL, location: string, allowHttp: OutboundPolicy['allowHttp']): URL {
  const url = URL.parse(location, current)
  if (url === null) throw refuse('redirect to something that is no URL')
  url.hash = ''
  if (current.protocol === 'https:' && url.protocol === 'http:') throw refuse('redirect from https to http')
  return parseDestination(url, allowHttp)
}

/** Resolves a URL's host once and checks every address. Throws OutboundError, or the signal's reason. */
export async function checkDestination(
  input: string | URL,
  policy: OutboundPolicy,
  signal?: AbortSignal,
): Promise<Destination> {
  const url = parseDestination(input, policy.allowHttp)
  const literal = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const addresses = isIP(literal) ? [literal] : await resolveName(url.hostname, policy, signal)
  const needsOperator = url.protocol === 'http:' && policy.allowHttp === 'allowed_addresses'
  const passes = needsOperator ? isWithin : isAddressAllowed
  const bad = addresses.find((address) => !passes(address, policy.allowedAddresses))
  if (bad !== undefined) throw refuse(`${url.hostname} is ${bad}`)
  return { url, addresses }
}

async function resolveName(hostname: string, policy: OutboundPolicy, signal?: AbortSignal): Promise<string[]> {
  // RFC 6761, 6.3: these are loopback and no question for a name server; some resolvers ask one all the same.
  if (/(^|\.)localhost\.?$/.test(hostname)) return ['127.0.0.1']
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
