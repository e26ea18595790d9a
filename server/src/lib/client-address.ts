/**
 * The IP address of the client of a request: the only place that reads it from the connection or from X-Forwarded-For, so
 * that address lists, limits, the audit log and the request log see one form of it. Pure.
 */
import { clientAddress, isAllowedFrom } from './ip.ts'

/** Entries of X-Forwarded-For that are read. */
const MAX_HOPS = 32

/**
 * Each trusted proxy names the client that it got the request from, at the end of the list.
 * @param peer address of the connection; undefined for a Unix socket
 * @returns canonical; null if unknown. An entry that is no IP address is not believed: the client is the proxy itself.
 */
export function clientAddressOf(
  peer: string | undefined,
  forwardedFor: string | undefined,
  trusted: readonly string[],
): string | null {
  let client = parseAddress(peer ?? '')
  if (forwardedFor === undefined || trusted.length === 0) return client
  const hops = forwardedFor.split(',').slice(-MAX_HOPS).reverse()
  for (const hop of hops) {
    if (client === null || !isAllowedFrom(trusted, client)) break
    const next = parseAddress(hop)
    if (next === null) break
    client = next
  }
  return client
}

/** An IP address as gateways write it: also with a port, in brackets or quotes, with a zone, or IPv4 mapped to IPv6. */
export function parseAddress(text: string): string | null {
  const [, bracketed, bare = ''] = /^"?(?:\[([^\]]*)\](?::\d{1,5})?|([^"]*))"?$/.exec(text.trim()) ?? []
  const address = bracketed ?? (/^[^:]*:\d{1,5}$/.test(bare) ? bare.slice(0, bare.indexOf(':')) : bare)
  return clientAddress(address.split('%', 1)[0])
}
