/**
 * Limits of requests without a valid key, per client IP address. They are kept in each process, so that a request is
 * rejected before any query; each further process adds only another small limit.
 *
 * An attempt takes its token before the lookup and refunds it if the key is valid. So concurrent guesses are limited like
 * sequential ones, and valid keys are never limited.
 */
import { isIPv6 } from 'node:net'
import ipaddr from 'ipaddr.js'
import type { Clock } from '../lib/clock.ts'
import { type Decision, decide, type Policy } from './gcra.ts'
import { policyText } from './headers.ts'
import type { AddressClass } from './policies.ts'

const MAX_ADDRESSES = 50_000
const MAX_VERIFIED = 10_000

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
    /** Returns the state without taking a token. */
    peek(address: string): Decision {
      return decide(policy, tats.get(address) ?? -Infinity, clock.monotonic() / 1_000, 0)
    },
    refund(address: string): void {
      const tat = tats.get(address)
      if (tat !== undefined) store(address, tat - 1 / policy.rate_per_second)
    },
  }
}

export type AddressLimit = ReturnType<typeof createAddressLimit>

/**
 * Looks up keys for IP addresses. A key that was valid before is looked up even for an IP address that is over its limit,
 * so that another client behind the same IP address cannot lock it out.
 */
export function createAttempts<P>(limit: AddressLimit) {
  const verified = new Set<string>()
  const inFlight = new Map<string, Map<string, Promise<P | null>>>()

  /** Returns the principal, null for an invalid key, or the decision that rejects the attempt. */
  async function attempt(
    address: string,
    key: string,
    find: (key: string) => Promise<P | null>,
  ): Promise<P | null | Decision> {
    if (verified.has(key)) {
      const found = await find(key)
      if (found === null) verified.delete(key)
      return found
    }
    const attempts = inFlight.get(address) ?? new Map<string, Promise<P | null>>()
    inFlight.set(address, attempts)
    for (;;) {
      const running = attempts.get(key)
      if (running) return running
      const decision = limit.take(address)
      if (decision.allowed) break
      // A concurrent attempt can refund its token. One of them ends in each iteration, so the loop is short.
      if (attempts.size === 0) {
        if (inFlight.get(address) === attempts) inFlight.delete(address)
        return decision
      }
      await Promise.race(attempts.values()).catch(() => {})
    }
    const found = find(key)
    attempts.set(key, found)
    try {
      const principal = await found
      if (principal === null) return null
      limit.refund(address)
      if (verified.size >= MAX_VERIFIED) verified.clear()
      verified.add(key)
      return principal
    } catch (error) {
      limit.refund(address)
      throw error
    } finally {
      attempts.delete(key)
      if (attempts.size === 0 && inFlight.get(address) === attempts) inFlight.delete(address)
    }
  }
  return attempt
}

/** The client of an IP address: the IPv4 address, or the /64 prefix of an IPv6 subscriber. */
export function clientOf(ip: string): string {
  if (!isIPv6(ip)) return ip
  const address = ipaddr.process(ip)
  if (!(address instanceof ipaddr.IPv6)) return address.toString()
  return address.parts
    .slice(0, 4)
    .map((part) => part.toString(16))
    .join(':')
}
