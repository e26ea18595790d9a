/**
 * Resolves names without getaddrinfo, which blocks one of the few threads of the process until it returns, whatever the
 * deadline: a few names whose servers do not respond would block all other lookups and all file operations. These
 * queries are asynchronous. /etc/hosts has precedence.
 */
import { Resolver } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import type { Resolve } from './outbound.ts'

/** @param timeoutMs of each of two attempts */
export function createResolve(timeoutMs: number, hostsFile = '/etc/hosts'): Resolve {
  const resolver = new Resolver({ timeout: timeoutMs, tries: 2 })
  return async (hostname) => {
    const own = hostsIn(await readFile(hostsFile, 'utf8').catch(() => ''), hostname)
    if (own.length > 0) return own
    const both = await Promise.allSettled([resolver.resolve4(hostname), resolver.resolve6(hostname)])
    const found = both.flatMap((one) => (one.status === 'fulfilled' ? one.value : []))
    const failed = both.find((one) => one.status === 'rejected')
    if (found.length === 0 && failed) throw failed.reason
    return found
  }
}

/** The IP addresses of a name in the text of a hosts file. */
export function hostsIn(text: string, hostname: string): string[] {
  const wanted = hostname.toLowerCase().replace(/\.$/, '')
  return text.split('\n').flatMap((line) => {
    const [address = '', ...names] = line.split('#', 1)[0]!.trim().split(/\s+/)
    return isIP(address) !== 0 && names.some((name) => name.toLowerCase() === wanted) ? [address] : []
  })
}
