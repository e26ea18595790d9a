import { Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Nullable, OneOf, PreciseTimestamp } from '../http/schemas.ts'
import { CAUSES, OUTCOMES } from './row.ts'

const seconds = (description: string) => Nullable(Type.Number({ description, examples: [3.412] }))
const count = (description: string) => Type.Integer({ description, examples: [3] })
const cause = OneOf(
  CAUSES,
  'What failed: the process of the machine, the kernel of the guest, the guest (no heartbeat), the host, or the disk.',
)

/** One recovery of an instance. */
export const Recovery = Type.Object(
  {
    number: Type.Integer({ description: 'Number of the recovery of this instance, from 1.', examples: [1] }),
    cause,
    outcome: Type.Union([OneOf(OUTCOMES, 'Outcome.'), Type.Null()], {
      description: 'How the recovery ended: `cancelled` by a stop or a termination. Null while it is in progress.',
    }),
    attempts: count('Number of restarts.'),
    down_since: Nullable(PreciseTimestamp('When the failure happened; null if unknown.')),
    detected_at: PreciseTimestamp('When the failure was detected.'),
    started_at: Nullable(PreciseTimestamp('When the instance was last restarted.')),
    ended_at: Nullable(PreciseTimestamp('When the guest was ready again, or the recovery failed or was cancelled.')),
    downtime_seconds: seconds(
      'From `down_since` (or `detected_at` if unknown) until the guest was ready; null if it did not recover.',
    ),
  },
  { $id: 'Recovery', description: 'A failure of an instance, and its recovery.', additionalProperties: false },
)

export const RecoveryPage = PageOf(Recovery)

/** Query parameters of the list; newest first by default. */
export const recoveryListParameters = listParameters

const percentiles = (description: string) =>
  Type.Union(
    [
      Type.Object(
        {
          p50: Type.Number({ description: 'Median, in seconds.', examples: [3.2] }),
          p90: Type.Number({ description: '90th percentile, in seconds.', examples: [3.9] }),
          p99: Type.Number({ description: '99th percentile, in seconds.', examples: [4.4] }),
          samples: count('Number of samples.'),
        },
        { additionalProperties: false },
      ),
      Type.Null(),
    ],
    { description: `${description} Null if there are no samples.` },
  )

const phases = {
  total: count('Number of recoveries that have ended.'),
  recovered: count('Number of recoveries with the outcome `recovered`.'),
  detect_seconds: percentiles('From the failure until its detection, where the time of the failure is known.'),
  restart_seconds: percentiles('From detection until the last restart, including waiting times.'),
  ready_seconds: percentiles('From the last restart until the guest was ready.'),
  downtime_seconds: percentiles('From the failure until the guest was ready.'),
}

/** Statistics of recoveries. */
export const RecoveryObjective = Type.Object(
  {
    ...phases,
    causes: Type.Array(Type.Object({ cause, ...phases }, { additionalProperties: false }), {
      description: 'The same statistics by cause, for causes that occurred.',
    }),
  },
  {
    $id: 'RecoveryObjective',
    description: 'Duration of all recoveries in the environment in the last 90 days, in seconds.',
    additionalProperties: false,
  },
)
