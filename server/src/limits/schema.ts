import { Type } from 'typebox'
import { OneOf } from '../http/schemas.ts'
import { QUOTA_NAMES } from '../lib/quota.ts'

const amount = (description: string) => Type.Union([Type.Integer(), Type.Null()], { description })

export const Limits = Type.Object(
  {
    quotas: Type.Array(
      Type.Object(
        {
          name: OneOf(QUOTA_NAMES, 'What is counted: all instances that are not terminated, at their full size.'),
          limit: amount('How much the project may use in this environment; null: no limit but the host.'),
          used: Type.Integer({ description: 'How much it uses.' }),
          remaining: amount('How much is left; null without a limit.'),
        },
        { additionalProperties: false },
      ),
      { description: 'Reserved by the create itself: beyond them it is refused with `capacity_exhausted`.' },
    ),
    rate_limits: Type.Array(
      Type.Object(
        {
          name: Type.String({
            description:
              'Class of requests, as in the header `RateLimit`; those of the project bound all its keys together.',
          }),
          rate_per_second: Type.Number({ description: 'Requests per second in the long run.' }),
          burst: Type.Integer({ description: 'Requests at once after a pause.' }),
          remaining: Type.Integer({ description: 'Requests that are left now.' }),
        },
        { additionalProperties: false },
      ),
      { description: 'Of this key and of its project; empty where the operator has switched them off.' },
    ),
  },
  {
    $id: 'Limits',
    description: 'What the project of the key may use, and how often it may ask, in the environment of the key.',
    additionalProperties: false,
    examples: [
      {
        quotas: [{ name: 'instances', limit: 10, used: 3, remaining: 7 }],
        rate_limits: [{ name: 'reads', rate_per_second: 100, burst: 1000, remaining: 993 }],
      },
    ],
  },
)
