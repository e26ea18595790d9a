/**
 * What a request caused, as one timeline. Pure.
 *
 * The engine records what it did and, with each step, what it waits for next; the waits themselves are nowhere and are
 * made here, from the end of one span to the begin of the next. So the top-level spans of one resource follow each other
 * without gaps: the call, then waits and steps in turn, and their durations add up to the time from the call to the
 * last of them. Clocks have milliseconds and looks overlap calls: a span that began before the end of the one before it
 * is shown from there on. Times between two wishes are nobody's wait and stay empty.
 *
 * A client may use a request id again. A span then belongs to the newest write before it that is about the same
 * resource, or, where none is, to the newest write before it.
 */
import type { NewSpan, RequestRow } from './row.ts'
import type { ShownSpan } from './schema.ts'
import type { EventMark } from './store.ts'

/** The parts of a trace, in milliseconds since 1970. */
type Placed = Omit<ShownSpan, 'started_at' | 'duration_ms'> & { start: number; end: number | null }

/**
 * @param writes writes with the same request id, `row` among them if it is one
 * @param spans all recorded spans with that id, likewise events
 */
export function timeline(row: RequestRow, writes: RequestRow[], spans: NewSpan[], events: EventMark[]): ShownSpan[] {
  const caused = spans.filter((span) => ownerOf(writes, span.resource, span.started_at) === row.id)
  const told = events.filter((event) => ownerOf(writes, event.resource_id, event.recorded_at) === row.id)
  const call = callOf(row)
  const lanes = Map.groupBy(
    caused.filter((span) => span.kind !== 'delivery'),
    (span) => span.resource,
  )
  const placed = [
    call,
    ...transactionsOf(row),
    ...[...lanes.values()].flatMap((lane) => laneOf(call.end!, lane)),
    ...caused
      .filter((span) => span.kind === 'delivery')
      .map((span) => place(span, startOf(span), String(span.detail.event ?? 'event'))),
    ...told.map(eventOf),
  ]
  // Stable: what begins at the same time stays in the order of causes.
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
      ...{ name: 'transaction', kind: 'transaction', parent, start, end: start + duration },
      ...{ resource: row.resource, status: row.status < 400 ? 'ok' : 'failed', detail: {} },
    }
  })
}

/** The spans of one resource with the waits between them, from `begin` on. */
function laneOf(begin: number, lane: NewSpan[]): Placed[] {
  const sorted = [...lane].sort((a, b) => startOf(a) - startOf(b))
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
  if (waits !== null) placed.push(waitOf(waits, lane[0]!.resource, end, null))
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

/** Which of these writes caused what happened to the resource at that time; undefined: none that is known. */
function ownerOf(writes: RequestRow[], resource: string, at: Date): string | undefined {
  const before = writes.filter((write) => write.time.getTime() <= at.getTime()).sort((a, b) => b.ordinal - a.ordinal)
  return (before.find((write) => write.resource === resource) ?? before[0])?.id
}
