import type { Query } from '../db/database.ts'
import { commaList, type Window, windowSql } from '../http/list.ts'
import type { InstanceRow } from './row.ts'
import type { Filters } from './schema.ts'

/** One window of an environment's instances; terminated ones only when the filter includes their status. */
export async function listInstances(
  query: Query,
  environmentId: string,
  filters: Filters,
  window: Window,
): Promise<InstanceRow[]> {
  const any = (column: string, text: string | undefined) => {
    const values = commaList(text)
    return values ? query`and ${query(column)} = any(${values})` : query``
  }
  const images = commaList(filters.image)
  return await query<InstanceRow[]>`
    select * from instances where environment_id = ${environmentId}
    ${statusFilter(query, environmentId, commaList(filters.status))}
    ${any('region', filters.region)} ${any('wanted_plan', filters.plan)} ${any('name', filters.name)}
    ${any('deployment_id', filters.deployment_id)} ${any('created_by', filters.created_by)}
    ${images ? query`and (image = any(${images}) or image_id = any(${images}))` : query``}
    ${filters.tag ? query`and tags @> ${query.json(tagsOf(filters.tag))}` : query``}
    ${windowSql(query, window)}`
}

function statusFilter(query: Query, environmentId: string, statuses: string[] | null) {
  if (!statuses?.includes('terminated')) {
    return query`and status <> 'terminated' ${statuses ? query`and status = any(${statuses})` : query``}`
  }
  return query`and status = any(${statuses})
    and (terminated_at is null or terminated_at > environment_now(${environmentId}) - interval '24 hours')`
}

/** `key:value`, split at the first colon. The same key twice with two values can match nothing, as the last one wins. */
function tagsOf(pairs: string[]): Record<string, string> {
  return Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf(':')), pair.slice(pair.indexOf(':') + 1)]))
}
