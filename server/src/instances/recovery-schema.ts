import { Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Nullable, OneOf, PreciseTimestamp } from '../http/schemas.ts'
import { CAUSES, OUTCOMES } from './row.ts'

const seconds = (description: string) => Nullable(Type.Number({ description, examples: [3.412] }))
const count = (description: string) => Type.Integer({ description, examples: [3] })
const cause = OneOf(
  CAUSES,
  'What failed: the process of its machine, the kernel of the guest, the guest as a whole (no sign of life), the host, the disk.',
)

/** One recovery of an instance. */
export const Recovery = Type.Object(
  {
    number: Type.Integer({ description: 'Counts the recoveries of the instance from 1.', examples: [1] }),
    cause,
    outcome: Type.Union([OneOf(OUTCOMES, 'An end.'), Type.Null()], {
      description: 'How it ended, `cancelled` by a stop or a termination; null while it is under way.',
    }),
    attempts: count('How often it was started again.'),
    down_since: Nullable(PreciseTimestamp('When the failure happened; null where nobody knows.')),
    detected_at: PreciseTimestamp('When it was seen.'),
    started_at: Nullable(PreciseTimestamp('When it was started again last.')),
    ended_at: Nullable(PreciseTimestamp('When it was up again, was given up, or was no longer wanted.')),
    downtime_seconds: seconds('From `down_since`, or else `detected_at`, until it was up again; null unless it was.'),
  },
  { $id: 'Recovery', description: 'A failure of an instance and what was done about it.', additionalProperties: false },
)

export const RecoveryPage = PageOf(Recovery)

/** Newest first unless `sort` says otherwise. */
export const recoveryListParameters = listParameters

const percentiles = (description: string) =>
  Type.Union(
    [
      Type.Object(
        {
          p50: Type.Number({ description: 'Half took so many seconds at most.', examples: [3.2] }),
          p90: Type.Number({ description: 'Nine of ten did.', examples: [3.9] }),
          p99: Type.Number({ description: '99 of 100 did.', examples: [4.4] }),
          samples: count('Of how many.'),
        },
        { additionalProperties: false },
      ),
      Type.Null(),
    ],
    { description: `${description} Null where there is none.` },
  )

const phases = {
  total: count('Recoveries that have ended.'),
  recovered: count('Those after which it was up again.'),
  detect_seconds: percentiles('From the failure until it was seen, where it is known when it happened.'),
  restart_seconds: percentiles('From there until the machine was started again (last), with what was waited.'),
  ready_seconds: percentiles('From there until the guest was up.'),
  downtime_seconds: percentiles('All together.'),
}

/** What recoveries took so far. */
export const RecoveryObjective = Type.Object(
  {
    ...phases,
    causes: Type.Array(Type.Object({ cause, ...phases }, { additionalProperties: false }), {
      description: 'The same by cause, of the causes that there were.',
    }),
  },
  {
    $id: 'RecoveryObjective',
    description: 'What all recoveries of the environment took in the last 90 days, in seconds.',
    additionalProperties: false,
  },
)
