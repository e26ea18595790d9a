import type { FastifyReply, FastifyRequest } from 'fastify'
import { type Static, type TSchema, Type } from 'typebox'
import type { Query } from '../db/database.ts'
import { type CursorContext, readCursor, writeCursor } from '../lib/page.ts'
import type { Secrets } from '../lib/secrets.ts'
import { Nullable, OneOf, ref } from './schemas.ts'

/** Query parameters of every list; spread them into the route's own. */
export const listParameters = {
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: 100, default: 20, description: 'Maximum number of items to return.' }),
  ),
  cursor: Type.Optional(
    Type.String({
      maxLength: 200,
      description: '`pagination.next_cursor` of the previous page. Use the same filters.',
    }),
  ),
  sort: Type.Optional({
    ...OneOf(['-created_at', 'created_at'], 'Newest first (`-created_at`) or oldest first.'),
    default: '-created_at',
  }),
}

/** Parameters of lists that come from the configuration, in its order. */
export const fixedListParameters = { limit: listParameters.limit, cursor: listParameters.cursor }

export const Pagination = Type.Object(
  {
    next_cursor: Nullable(
      Type.String({ description: 'Pass it as `cursor` to get the next page. Null on the last page.' }),
    ),
    has_more: Type.Boolean({ description: 'Whether there is a next page.' }),
  },
  { $id: 'Pagination', description: 'How to get the next page.', additionalProperties: false },
)

/** The named schema of a page of a named schema. */
export function PageOf<T extends TSchema & { $id?: string }>(item: T) {
  return Type.Object(
    { data: Type.Array(ref(item)), pagination: ref(Pagination) },
    { $id: `${item.$id}Page`, description: `A page of a list of ${item.$id}.`, additionalProperties: false },
  )
}

/** The rows of one page: those beyond an ordinal, in one direction. */
export type Window = { after: number | null; descending: boolean; limit: number }

/** The end of a list query: `where <filters> ${windowSql(sql, window)}`. `column` is the ordinal of the table. */
export function windowSql(query: Query, { after, descending, limit }: Window, column = 'ordinal') {
  const ordinal = query(column)
  const order = descending ? query`desc` : query`asc`
  if (after === null) return query`order by ${ordinal} ${order} limit ${limit}`
  const beyond = descending ? query`${ordinal} < ${after}` : query`${ordinal} > ${after}`
  return query`and ${beyond} order by ${ordinal} ${order} limit ${limit}`
}

type ListDeps = { config: { public_url: string }; secrets: Pick<Secrets, 'cursor_key'> }

type ListQuery = { limit?: number; cursor?: string; sort?: string }

/**
 * Sends one page. It reads one row more than requested to find out whether there is a next page.
 * @param select reads the rows of a window, in its order
 * @param show converts a row to its API representation
 */
export async function sendPage<Row extends { ordinal: number }, T>(
  deps: ListDeps,
  request: FastifyRequest,
  reply: FastifyReply,
  select: (window: Window) => Promise<Row[]>,
  show: (row: Row) => T,
): Promise<{ data: T[]; pagination: Static<typeof Pagination> }> {
  const { limit = 20, cursor, ...filters } = request.query as ListQuery
  const path = request.url.split('?', 1)[0]!
  const context: CursorContext = { environment_id: request.principal.environment_id, path, filters }
  const after = cursor === undefined ? null : readCursor(deps.secrets.cursor_key, context, cursor)
  const rows = await select({ after, descending: filters.sort !== 'created_at', limit: limit + 1 })
  const shown = rows.slice(0, limit)
  const has_more = rows.length > limit
  const next_cursor = has_more ? writeCursor(deps.secrets.cursor_key, context, shown.at(-1)!.ordinal) : null
  if (next_cursor !== null) {
    const next = new URLSearchParams(request.url.slice(path.length + 1))
    next.set('cursor', next_cursor)
    reply.header('link', `<${deps.config.public_url}${path}?${next}>; rel="next"`)
  }
  return { data: shown.map(show), pagination: { next_cursor, has_more } }
}

/** Sends one page of a list that is in memory, in the order of the list. */
export function sendFixedPage<T>(deps: ListDeps, request: FastifyRequest, reply: FastifyReply, items: T[]) {
  const rows = items.map((item, ordinal) => ({ item, ordinal }))
  const select = async ({ after, limit }: Window) => rows.filter((row) => row.ordinal > (after ?? -1)).slice(0, limit)
  return sendPage(deps, request, reply, select, (row) => row.item)
}

/** The values of a comma-separated filter; null: no filter. */
export function commaList(text: string | undefined): string[] | null {
  return text === undefined ? null : [...new Set(text.split(','))]
}
