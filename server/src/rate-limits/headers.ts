/**
 * What answers say of the limits: `RateLimit-Policy` and `RateLimit` as of draft-ietf-httpapi-ratelimit-headers-11, whose
 * names are Structured Field strings, and the `X-RateLimit-` fields that most clients know, for the policy with least left.
 */
import type { Policy } from './gcra.ts'

/** A limit that applies to requests. */
export type Limit = {
  name: string
  policy: Policy
  /** It in `RateLimit-Policy`, which never changes: see `policyText`. */
  policy_text: string
}

/** Seconds in which an empty bucket is full again. */
function windowSeconds({ burst, rate_per_second }: Policy): number {
  return Math.max(1, Math.ceil(burst / rate_per_second))
}

export const policyText = (name: string, policy: Policy): string =>
  `"${name}";q=${policy.burst};w=${windowSeconds(policy)}`

/**
 * @param limits at least one
 * @param remaining what each of them leaves
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
