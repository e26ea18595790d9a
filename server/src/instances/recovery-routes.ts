import { Type } from 'typebox'
import { sendObject } from '../http/etag.ts'
import { sendPage } from '../http/list.ts'
import { Id, ref } from '../http/schemas.ts'
import type { Resource } from '../http/types.ts'
import { notFound } from '../lib/errors.ts'
import { listRecoveries, type ObjectiveRow, type RecoveryRow, readObjective } from './recoveries.ts'
import { downtimeSeconds } from './recovery.ts'
import { Recovery, RecoveryObjective, RecoveryPage, recoveryListParameters } from './recovery-schema.ts'
import { find } from './store.ts'

const tags = ['Recovery']
const params = Type.Object({ id: Id('inst', 'ID of the instance.') })

export const recoveries: Resource = {
  tag: { name: 'Recovery', description: 'Failures of instances, and how long their recovery took.' },
  schemas: [Recovery, RecoveryPage, RecoveryObjective],
  routes(app, deps) {
    app.get(
      '/v2/instances/:id/recoveries',
      {
        config: { scope: 'instances:read' },
        schema: {
          operationId: 'listInstanceRecoveries',
          summary: 'List the recoveries of an instance',
          description: 'Returns each failure with its cause, downtime and outcome.',
          tags,
          params,
          querystring: Type.Object(recoveryListParameters, { additionalProperties: false }),
          response: { 200: ref(RecoveryPage) },
        },
      },
      async (request, reply) => {
        const { environment_id } = request.principal
        const { id } = request.params
        const sql = deps.sql.as(environment_id)
        if (!(await find(sql, environment_id, id))) throw notFound('instance', id)
        return sendPage(deps, request, reply, (window) => listRecoveries(sql, environment_id, id, window), showRecovery)
      },
    )

    app.get(
      '/v2/recovery_objective',
      {
        config: { scope: 'instances:read' },
        schema: {
          operationId: 'getRecoveryObjective',
          summary: 'Get recovery statistics',
          description: 'Returns percentiles of recovery times for the environment, in total and by cause.',
          tags,
          response: { 200: ref(RecoveryObjective) },
        },
      },
      async (request, reply) => {
        const { environment_id } = request.principal
        const rows = await readObjective(deps.sql.as(environment_id), environment_id)
        const causes = rows.flatMap((row) => (row.cause === null ? [] : [{ cause: row.cause, ...showPhases(row) }]))
        return sendObject(request, reply, { ...showPhases(rows[0]!), causes })
      },
    )
  },
}

const timeOrNull = (date: Date | null): string | null => date?.toISOString() ?? null

function showRecovery({ ordinal: number, cause, outcome, attempts, ...times }: RecoveryRow) {
  const { detected_at, down_since, started_at, ended_at } = times
  const record = {
    number,
    cause,
    outcome,
    attempts,
    down_since: timeOrNull(down_since),
    detected_at: detected_at.toISOString(),
    started_at: timeOrNull(started_at),
    ended_at: timeOrNull(ended_at),
  }
  return { ...record, downtime_seconds: downtimeSeconds(record) }
}

const showPhases = ({ total, recovered, detect, restart, ready, downtime }: ObjectiveRow) => ({
  total,
  recovered,
  detect_seconds: detect,
  restart_seconds: restart,
  ready_seconds: ready,
  downtime_seconds: downtime,
})
