/**
 * Rate limit headers of responses: `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-11, and the
 * widely used `X-RateLimit-` headers for the limit with the fewest remaining requests.
 */
import type { Policy } from './gcra.ts'

/** A limit that applies to requests. */
export type Limit = {
  name: string
  policy: Policy
  /** The item in `RateLimit-Policy`, computed once: see `policyText`. */
  policy_text: string
}

/** Seconds in which an empty bucket refills. */
function windowSeconds({ burst, rate_per_second }: Policy): number {
  return Math.max(1, Math.ceil(burst / rate_per_second))
}

export const policyText = (name: string, policy: Policy): string =>
  `"${name}";q=${policy.burst};w=${windowSeconds(policy)}`

/**
 * @param limits at least one
 * @param remaining remaining requests of each limit
 * @param now real time in milliseconds since 1970
 */
export function rateLimitHeaders(
  limits: readonly Limit[],
  remaining: readonly number[],
  now: number,
): Record<string, string> {
  let policies = ''
  let left = ''
  let least = 0
  for (let i = 0; i < limits.length; i++) {
    const { name, policy, policy_text } = limits[i]!
    const separator = i === 0 ? '' : ', '
    policies += separator + policy_text
    left += `${separator}"${name}";r=${remaining[i]};t=${secondsUntilFull(policy, remaining[i]!)}`
    if (remaining[i]! < remaining[least]!) least = i
  }
  const { policy } = limits[least]!
  return {
    'ratelimit-policy': policies,
    ratelimit: left,
    'x-ratelimit-limit': String(policy.burst),
    'x-ratelimit-remaining': String(remaining[least]),
    'x-ratelimit-reset': String(Math.ceil(now / 1_000) + secondsUntilFull(policy, remaining[least]!)),
  }
}

function secondsUntilFull({ burst, rate_per_second }: Policy, remaining: number): number {
  return Math.ceil((burst - remaining) / rate_per_second)
}

/** The same headers for the OpenAPI document. */
export const RATE_LIMIT_HEADERS = {
  'RateLimit-Policy': {
    type: 'string',
    description:
      'Limits that apply: for each, its name, a burst of `q` requests, and the `w` seconds in which it refills.',
    examples: ['"reads";q=1000;w=10, "project_reads";q=5000;w=10'],
  },
  RateLimit: {
    type: 'string',
    description: 'Remaining requests: for each limit, `r` requests, and `t` seconds until it is fully refilled.',
    examples: ['"reads";r=0;t=10, "project_reads";r=4000;t=2'],
  },
  'X-RateLimit-Limit': { type: 'integer', description: 'Burst of the limit with the fewest remaining requests.' },
  'X-RateLimit-Remaining': { type: 'integer', description: 'Remaining requests of that limit.' },
  'X-RateLimit-Reset': { type: 'integer', description: 'When that limit is fully refilled, in Unix seconds.' },
}

export const RETRY_AFTER = { type: 'integer', minimum: 1, description: 'Seconds to wait before a retry.' }
