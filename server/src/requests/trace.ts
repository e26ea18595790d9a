/**
 * The timeline of the effects of a request. Pure.
 *
 * The engine records each step and what the resource waits for after it. Waits are not recorded; they are derived here,
 * from the end of one span to the start of the next. So the top-level spans of one resource have no gaps: the call, then
 * alternating waits and steps, whose durations add up to the time from the call to the end of the last span. A span that
 * started before the end of the previous one (clocks have milliseconds, and a step can overlap the call) is shown from
 * that end on. Time in which nothing is desired is not a wait, and stays empty.
 *
 * A client can reuse a request ID. A span then belongs to the newest earlier write on the same resource or, if there is
 * none, to the newest earlier write.
 */
import type { NewSpan, RequestRow } from './row.ts'
import type { ShownSpan } from './schema.ts'
import type { EventMark } from './store.ts'

/** A span of the timeline, in milliseconds since 1970. */
type Placed = Omit<ShownSpan, 'started_at' | 'duration_ms'> & { start: number; end: number | null }

/**
 * @param writes writes with the same request ID, including `row` if it is a write
 * @param spans all recorded spans with that ID, likewise events
 */
export function timeline(row: RequestRow, writes: RequestRow[], spans: NewSpan[], events: EventMark[]): ShownSpan[] {
  const caused = spans.filter((span) => ownerOf(writes, span.resource, span.started_at) === row.id)
  const emitted = events.filter((event) => ownerOf(writes, event.resource_id, event.recorded_at) === row.id)
  const call = callOf(row)
  const byResource = Map.groupBy(
    caused.filter((span) => span.kind !== 'delivery'),
    (span) => span.resource,
  )
  const placed = [
    call,
    ...transactionsOf(row),
    ...[...byResource.values()].flatMap((recorded) => spansOf(call.end!, recorded)),
    ...caused
      .filter((span) => span.kind === 'delivery')
      .map((span) => place(span, startOf(span), String(span.detail.event ?? 'event'))),
    ...emitted.map(eventOf),
  ]
  // The sort is stable: spans with the same start keep the order of their causes.
  return placed.sort((a, b) => a.start - b.start).map(show)
}

function callOf(row: RequestRow): Placed & { end: number } {
  const start = row.time.getTime()
  return {
    name: row.route ? `${row.method} ${row.route}` : row.method,
    kind: 'call',
    parent: null,
    start,
    end: start + row.duration_ms,
    resource: row.resource,
    status: row.status < 400 ? 'ok' : 'failed',
    detail: { status: row.status, ...(row.code !== null && { code: row.code }) },
  }
}

function transactionsOf(row: RequestRow): Placed[] {
  return (row.transactions ?? []).map(([begin, duration]) => {
    const start = row.time.getTime() + begin
    const parent = callOf(row).name
    return {
      name: 'transaction',
      kind: 'transaction',
      parent,
      start,
      end: start + duration,
      resource: row.resource,
      status: row.status < 400 ? 'ok' : 'failed',
      detail: {},
    }
  })
}

/** The spans of one resource, from `begin` on, and the waits between them. */
function spansOf(begin: number, recorded: NewSpan[]): Placed[] {
  const sorted = [...recorded].sort((a, b) => startOf(a) - startOf(b))
  const placed: Placed[] = []
  let end = begin
  let waits: NewSpan['waits_for'] = 'queue'
  for (const span of sorted) {
    const start = Math.max(startOf(span), end)
    if (waits !== null && start > end) placed.push(waitOf(waits, span.resource, end, start))
    const shown = place(span, start, null)
    placed.push(shown)
    end = shown.end!
    waits = span.waits_for
  }
  if (waits !== null) placed.push(waitOf(waits, recorded[0]!.resource, end, null))
  return placed
}

function place(span: NewSpan, start: number, parent: string | null): Placed {
  const { name, kind, resource, status, detail } = span
  return { name, kind, parent, start, end: Math.max(start, startOf(span) + span.duration_ms), resource, status, detail }
}

function waitOf(wait: NonNullable<NewSpan['waits_for']>, resource: string, start: number, end: number | null): Placed {
  const status = end === null ? 'open' : 'ok'
  return { name: wait, kind: wait, parent: null, start, end, resource, status, detail: {} }
}

function eventOf(event: EventMark): Placed {
  const start = event.recorded_at.getTime()
  const detail = { event_id: event.id, sequence: event.sequence }
  const { type: name, resource_id: resource } = event
  return { name, kind: 'event', parent: null, start, end: start, resource, status: 'ok', detail }
}

function show({ start, end, ...span }: Placed): ShownSpan {
  const { name, kind, parent, ...rest } = span
  const duration_ms = end === null ? null : Math.round((end - start) * 1000) / 1000
  return { name, kind, parent, started_at: new Date(start).toISOString(), duration_ms, ...rest }
}

const startOf = (span: NewSpan): number => span.started_at.getTime()

/** The ID of the write that caused a span or event of a resource at a time; undefined if there is none. */
function ownerOf(writes: RequestRow[], resource: string, at: Date): string | undefined {
  const before = writes.filter((write) => write.time.getTime() <= at.getTime()).sort((a, b) => b.ordinal - a.ordinal)
  return (before.find((write) => write.resource === resource) ?? before[0])?.id
}
