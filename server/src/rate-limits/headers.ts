/**
 * What answers say of the limits: `RateLimit-Policy` and `RateLimit` as of draft-ietf-httpapi-ratelimit-headers-11, whose
 * names are Structured Field strings, and the `X-RateLimit-` fields that most clients know, for the policy with least left.
 */
import type { Policy } from './gcra.ts'

/** A policy that applied to a request, and what it leaves. */
export type Applied = { name: string; policy: Policy; remaining: number }

/** Seconds in which an empty bucket is full again. */
export function windowSeconds({ burst, rate_per_second }: Policy): number {
  return Math.max(1, Math.ceil(burst / rate_per_second))
}

/** @param now real time in milliseconds since 1970 */
export function rateLimitHeaders(applied: readonly Applied[], now: number): Record<string, string> {
  let policies = ''
  let left = ''
  let least = applied[0]!
  for (const each of applied) {
    const separator = policies === '' ? '' : ', '
    policies += `${separator}"${each.name}";q=${each.policy.burst};w=${windowSeconds(each.policy)}`
    left += `${separator}"${each.name}";r=${each.remaining};t=${secondsUntilFull(each)}`
    if (each.remaining < least.remaining) least = each
  }
  return {
    'ratelimit-policy': policies,
    ratelimit: left,
    'x-ratelimit-limit': String(least.policy.burst),
    'x-ratelimit-remaining': String(least.remaining),
    'x-ratelimit-reset': String(Math.ceil(now / 1_000) + secondsUntilFull(least)),
  }
}

function secondsUntilFull({ policy, remaining }: Applied): number {
  return Math.ceil((policy.burst - remaining) / policy.rate_per_second)
}

/** The same headers for the OpenAPI document. */
export const RATE_LIMIT_HEADERS = {
  'RateLimit-Policy': {
    type: 'string',
    description:
      'The limits that apply: for each a name, `q` requests at once, and `w` seconds in which as many come again.',
    examples: ['"reads";q=1000;w=10, "project_reads";q=5000;w=10'],
  },
  RateLimit: {
    type: 'string',
    description: 'What is left: for each limit `r` requests, and `t` seconds until all of it is there again.',
    examples: ['"reads";r=0;t=10, "project_reads";r=4000;t=2'],
  },
  'X-RateLimit-Limit': { type: 'integer', description: 'Requests at once, of the limit with least left.' },
  'X-RateLimit-Remaining': { type: 'integer', description: 'Requests left of it.' },
  'X-RateLimit-Reset': { type: 'integer', description: 'When all of it is there again, in Unix seconds.' },
}

export const RETRY_AFTER = { type: 'integer', minimum: 1, description: 'Seconds until trying again succeeds.' }
