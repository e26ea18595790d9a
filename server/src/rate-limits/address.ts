/**
 * Limits of requests without a valid key, per client IP address. They are kept in each process, because they cost no
 * statement; each further process adds only another small limit. Only a request that has failed is counted.
 */
import { isIPv6 } from 'node:net'
import ipaddr from 'ipaddr.js'
import type { Clock } from '../lib/clock.ts'
import { type Decision, decide, type Policy } from './gcra.ts'
import { policyText } from './headers.ts'
import type { AddressClass } from './policies.ts'

const MAX_ADDRESSES = 50_000

/** A policy that applies to each IP address separately. */
export function createAddressLimit(name: AddressClass, policy: Policy, clock: Clock) {
  const tats = new Map<string, number>()

  function store(address: string, tat: number): void {
    // The map is in order of last use; the least recently used IP address is removed.
    tats.delete(address)
    if (tats.size >= MAX_ADDRESSES) tats.delete(tats.keys().next().value!)
    tats.set(address, tat)
  }

  return {
    name,
    policy,
    policy_text: policyText(name, policy),
    take(address: string): Decision {
      const decision = decide(policy, tats.get(address) ?? -Infinity, clock.monotonic() / 1_000)
      store(address, decision.tat)
      return decision
    },
  }
}

export type AddressLimit = ReturnType<typeof createAddressLimit>

/** The client of an IP address: the IPv4 address, or the /64 prefix of an IPv6 subscriber. */
export function clientOf(ip: string | null): string {
  if (ip === null || !isIPv6(ip)) return ip ?? 'unknown'
  const address = ipaddr.process(ip)
  if (!(address instanceof ipaddr.IPv6)) return address.toString()
  return address.parts
    .slice(0, 4)
    .map((part) => part.toString(16))
    .join(':')
}
