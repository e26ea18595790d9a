import type { AnyRequestRow, RequestRow } from './row.ts'
import type { ShownRequest } from './schema.ts'

/** A request as the API returns it. */
export function showRequest(row: RequestRow): ShownRequest {
  const { id, request_id, method, route, resource, key_id, status, code, address, user_agent, aborted } = row
  return {
    id,
    request_id,
    created_at: row.time.toISOString(),
    method,
    route,
    resource,
    key_id,
    status,
    code,
    duration_ms: row.duration_ms,
    address,
    user_agent,
    aborted,
    sampled: row.sample_rate < 1,
    sample_rate: row.sample_rate,
  }
}

/** The fields that distinguish a request from others with the same X-Request-ID. */
export function showOther({ id, time, method, route, status }: RequestRow) {
  return { id, created_at: time.toISOString(), method, route, status }
}

/** Whose request it is, for the operator. */
export function showTenant({ project_id, mode }: AnyRequestRow) {
  return { project_id, environment: mode }
}

/** A request of any project as the operator reads it. */
export function showAnyRequest(row: AnyRequestRow): ShownRequest {
  return { ...showRequest(row), ...showTenant(row) }
}
