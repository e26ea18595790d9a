import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Static, TObject } from 'typebox'
import type { Deps } from '../deps.ts'
import { sendText } from '../http/etag.ts'
import { commaList, sendPage, type Window } from '../http/list.ts'
import { visibleTypes } from './patterns.ts'
import type { resourceEventParameters } from './schema.ts'
import { checkKept, readEvents } from './store.ts'

type Query = Static<TObject<typeof resourceEventParameters>>

/** Part of the description of each list of events. */
export const RESUME =
  'To read every event, pass the `next_after` of each response as `after` in the next request. The list contains only events of resources that the key may read, so sequence numbers can have gaps. No event is ever added below a number that was already returned.'

/** Sends a page of events, joined from their JSON texts. @param resource only events of this resource; null: of all */
export async function sendEvents(
  deps: Deps,
  request: FastifyRequest,
  reply: FastifyReply,
  resource: string | null,
): Promise<never> {
  const { principal } = request
  const query = request.query as Query
  const filters = { types: visibleTypes(principal.scopes, commaList(query.type)), resource }
  const after = query.after ?? null
  const isAscending = after !== null || query.sort === 'created_at'
  let last = 0
  const select = async (page: Window) => {
    const window = { ...page, after: page.after ?? after, descending: !isAscending }
    const found = await readEvents(deps.sql.as(principal.environment_id), principal, filters, window)
    if (after !== null) checkKept(window.after!, found)
    last = Math.max(after ?? 0, found.last)
    return found.events
  }
  const { data, pagination } = await sendPage(deps, request, reply, select, (event) => event)
  const next_after = isAscending && pagination.has_more ? data.at(-1)!.ordinal : last
  const rest = JSON.stringify({ pagination, next_after }).slice(1)
  return sendText(reply, `{"data":[${data.map(({ text }) => text).join(',')}],${rest}`)
}
