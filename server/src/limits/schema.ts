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
  },
  {
    $id: 'Limits',
    description: 'What the project of the key may use, in the environment of the key.',
    additionalProperties: false,
    examples: [{ quotas: [{ name: 'instances', limit: 10, used: 3, remaining: 7 }] }],
  },
)
