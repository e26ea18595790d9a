import { Type } from 'typebox'
import { OneOf } from '../http/schemas.ts'
import { QUOTA_NAMES } from '../lib/quota.ts'

const amount = (description: string) => Type.Union([Type.Integer(), Type.Null()], { description })

export const Limits = Type.Object(
  {
    quotas: Type.Array(
      Type.Object(
        {
          name: OneOf(
            QUOTA_NAMES,
            'What the quota limits: instances that are not terminated, with their sizes and public IP addresses; images that were added; subnets, including the default one; webhooks; active API keys, without those that a rotation has replaced. `image_bytes`: what images occupy on the disk of the host, or have reserved there for their upload and import.',
          ),
          limit: amount('Limit of the project in this environment; null if only the capacity of the host limits it.'),
          used: Type.Integer({ description: 'Current usage.' }),
          remaining: amount('Limit minus usage; null if there is no limit.'),
        },
        { additionalProperties: false },
      ),
      {
        description:
          'Quotas. A request that exceeds a quota returns `capacity_exhausted`. All projects except the first have default quotas, which the operator can change.',
      },
    ),
    rate_limits: Type.Array(
      Type.Object(
        {
          name: Type.String({
            description:
              'Class of requests, as in the header `RateLimit`. Classes that begin with `project_` limit all keys of the project together.',
          }),
          rate_per_second: Type.Number({ description: 'Sustained rate, in requests per second.' }),
          burst: Type.Integer({ description: 'Maximum number of requests in a burst.' }),
          remaining: Type.Integer({ description: 'Requests that can be made now.' }),
        },
        { additionalProperties: false },
      ),
      { description: 'Rate limits of this key and of its project; empty if the operator has disabled them.' },
    ),
  },
  {
    $id: 'Limits',
    description: 'Quotas and rate limits of the project in the environment of the key.',
    additionalProperties: false,
    examples: [
      {
        quotas: [{ name: 'instances', limit: 10, used: 3, remaining: 7 }],
        rate_limits: [{ name: 'reads', rate_per_second: 100, burst: 1000, remaining: 993 }],
      },
    ],
  },
)
