/**
 * Cursors: the position in a list, opaque to clients and bound to that list.
 *
 * A cursor is a tag and the last row's ordinal, masked by the tag: HMAC-SHA-256 over the list's context and the
 * ordinal. Therefore a client cannot alter it or use it with other filters or in another environment, and it does not
 * reveal the number of rows.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { ApiError } from './errors.ts'

/** Everything that must be the same on the next page. */
export type CursorContext = { environment_id: string; path: string; filters: Record<string, unknown> }

const TAG_BYTES = 16
const ORDINAL_BYTES = 8

/** The cursor after the row with this ordinal. */
export function writeCursor(key: Uint8Array, context: CursorContext, ordinal: number): string {
  const plain = Buffer.alloc(ORDINAL_BYTES)
  plain.writeBigUInt64BE(BigInt(ordinal))
  const tag = tagOf(key, context, plain)
  return Buffer.concat([tag, mask(key, tag, plain)]).toString('base64url')
}

/** The ordinal in a cursor. Throws `invalid_cursor` for one that was altered or made for another list. */
export function readCursor(key: Uint8Array, context: CursorContext, cursor: string): number {
  const bytes = Buffer.from(cursor, 'base64url')
  const tag = bytes.subarray(0, TAG_BYTES)
  const plain = bytes.length === TAG_BYTES + ORDINAL_BYTES ? mask(key, tag, bytes.subarray(TAG_BYTES)) : null
  if (plain === null || bytes.toString('base64url') !== cursor || !timingSafeEqual(tag, tagOf(key, context, plain))) {
    throw new ApiError(
      'invalid_cursor',
      'The cursor was altered, or belongs to another list. Take next_cursor of the page before with the same filters and sort, or start without a cursor.',
      { errors: [{ parameter: 'cursor', code: 'invalid_cursor', message: 'cursor does not belong to this list' }] },
    )
  }
  return Number(plain.readBigUInt64BE())
}

function tagOf(key: Uint8Array, context: CursorContext, plain: Buffer): Buffer {
  const filters = Object.entries(context.filters).filter(([, value]) => value !== undefined)
  filters.sort(([a], [b]) => (a < b ? -1 : 1))
  const text = JSON.stringify([context.environment_id, context.path, filters])
  return createHmac('sha256', key).update(plain).update(text).digest().subarray(0, TAG_BYTES)
}

function mask(key: Uint8Array, tag: Buffer, bytes: Buffer): Buffer {
  const stream = createHmac('sha256', key).update('mask').update(tag).digest()
  return Buffer.from(bytes.map((byte, i) => byte ^ stream[i]!))
}
