/** A request as it is recorded when it has been answered. Texts are cut and clean: one bad row would stop its batch. */
export type NewRequest = {
  /** `req_…`, unique. */
  id: string
  /** Null: without a valid key. */
  environment_id: string | null
  /** The client's X-Request-ID, or the same as `id`. */
  request_id: string
  /** Real milliseconds since 1970 at which it began. */
  at: number
  key_id: string | null
  method: string
  /** Pattern of the route, such as `/v2/instances/:id`; null: no route took it. */
  route: string | null
  /** Identifier of what the path names or the request has made. */
  resource: string | null
  status: number
  /** Code of the problem in the answer. */
  code: string | null
  duration_ms: number
  address: string
  user_agent: string | null
  /** The client left before the answer was sent. */
  aborted: boolean
  /** The share of such requests that is recorded: 1 is all. */
  sample_rate: number
  /** `[begin, duration]` of each transaction of a write, in milliseconds from the beginning of the request. */
  transactions: [number, number][] | null
}

/** A row of `requests`. */
export type RequestRow = Omit<NewRequest, 'at'> & { ordinal: number; time: Date }

/** What the time after a span goes to, until the next span of the same resource. */
export const WAITS = ['queue', 'image', 'boot', 'shutdown', 'retry'] as const
export type Wait = (typeof WAITS)[number]

/** Kinds of spans that are recorded; those of the API have `call`, `transaction`, the waits and `event` besides. */
export const RECORDED_KINDS = ['step', 'ready', 'status', 'delivery'] as const

/** Something that a request caused, written when it is over. */
export type NewSpan = {
  environment_id: string
  /** The request's `request_id`, as the wish carries it. */
  request_id: string
  /** Identifier of what it was done to. */
  resource: string
  /** Real time. */
  started_at: Date
  name: string
  kind: (typeof RECORDED_KINDS)[number]
  duration_ms: number
  status: 'ok' | 'failed'
  waits_for: Wait | null
  /** Small and public; a delivery names its event's type in `event`, below which it is shown. */
  detail: Record<string, string | number | boolean | null>
}
export type SpanRow = NewSpan

/** Numbers within each millisecond: `ordinal = milliseconds since 1970 × 2048 + tick`, below 2^53 until the year 2109. */
export const TICKS = 2048
