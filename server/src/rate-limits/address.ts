/**
 * Limits of requests that show no valid key, by client address. They are kept in this process alone: their point is to
 * refuse before anything is asked of the database, and a second process doubles what is little already.
 *
 * Trying a key is paid for in advance and given back when the key is valid, so that guesses in parallel are bounded like
 * guesses in a row, and a valid key never pays.
 */
import { isIPv6 } from 'node:net'
import type { Clock } from '../lib/clock.ts'
import { type Decision, decide, type Policy } from './gcra.ts'
import { policyText } from './headers.ts'
import type { AddressClass } from './policies.ts'

const MAX_ADDRESSES = 50_000
const MAX_PROVEN = 10_000

/** One policy for each of many addresses. */
export function createAddressLimit(name: AddressClass, policy: Policy, clock: Clock) {
  const tats = new Map<string, number>()

  function store(address: string, tat: number): void {
    // Last used is last in the map; the one that asked longest ago makes room.
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
    /** What is left, without taking of it. */
    look(address: string): Decision {
      return decide(policy, tats.get(address) ?? -Infinity, clock.monotonic() / 1_000, 0)
    },
    giveBack(address: string): void {
      const tat = tats.get(address)
      if (tat !== undefined) store(address, tat - 1 / policy.rate_per_second)
    },
  }
}

export type AddressLimit = ReturnType<typeof createAddressLimit>

/**
 * Looks keys up on behalf of addresses. A key that was valid here before is looked up even for an address that has used up
 * its guesses, so a neighbour behind the same address cannot lock it out.
 */
export function createAttempts<P>(limit: AddressLimit) {
  const proven = new Set<string>()
  const inFlight = new Map<string, Map<string, Promise<P | null>>>()

  /** The principal, null for a key that does not work, or the decision that refuses to look. */
  async function attempt(
    address: string,
    key: string,
    find: (key: string) => Promise<P | null>,
  ): Promise<P | null | Decision> {
    if (proven.has(key)) {
      const found = await find(key)
      if (found === null) proven.delete(key)
      return found
    }
    const here = inFlight.get(address) ?? new Map<string, Promise<P | null>>()
    inFlight.set(address, here)
    for (;;) {
      const same = here.get(key)
      if (same) return same
      const decision = limit.take(address)
      if (decision.allowed) break
      // Those before us may get back what they paid. Each turn one of them ends, so there are not many.
      if (here.size === 0) {
        if (inFlight.get(address) === here) inFlight.delete(address)
        return decision
      }
      await Promise.race(here.values()).catch(() => {})
    }
    const found = find(key)
    here.set(key, found)
    try {
      const principal = await found
      if (principal === null) return null
      limit.giveBack(address)
      if (proven.size >= MAX_PROVEN) proven.clear()
      proven.add(key)
      return principal
    } catch (error) {
      limit.giveBack(address)
      throw error
    } finally {
      here.delete(key)
      if (here.size === 0 && inFlight.get(address) === here) inFlight.delete(address)
    }
  }
  return attempt
}

/** What counts as one client: an IPv4 address, or the /64 that one IPv6 subscriber has. */
export function clientOf(ip: string): string {
  if (ip.startsWith('::ffff:')) return ip.slice(7)
  if (!isIPv6(ip)) return ip
  const [head = '', tail = ''] = ip.split('%', 1)[0]!.split('::')
  const left = head.split(':').filter(Boolean)
  const right = tail.split(':').filter(Boolean)
  const groups = ip.includes('::') ? [...left, ...Array(8 - left.length - right.length).fill('0'), ...right] : left
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')
}
