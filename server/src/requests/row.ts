/** A request to record. Texts are truncated and valid, because one invalid row would fail the whole batch. */
export type NewRequest = {
  /** `req_…`, unique. */
  id: string
  /** Null for a request without a valid key. */
  environment_id: string | null
  /** The client's X-Request-ID, or the same as `id`. */
  request_id: string
  /** Start of the request, in milliseconds since 1970, in real time. */
  at: number
  key_id: string | null
  method: string
  /** Pattern of the route, such as `/v2/instances/:id`; null if no route matched. */
  route: string | null
  /** ID of the resource in the path, or of the created resource. */
  resource: string | null
  status: number
  /** Error code of the response. */
  code: string | null
  duration_ms: number
  address: string
  user_agent: string | null
  /** The client disconnected before the response was sent. */
  aborted: boolean
  /** The fraction of such requests that is recorded; 1 means all. */
  sample_rate: number
  /** `[begin, duration]` of each transaction of a write, in milliseconds from the start of the request. */
  transactions: [number, number][] | null
}

/** A row of `requests`. */
export type RequestRow = Omit<NewRequest, 'at'> & { ordinal: number; time: Date }

/** A row with the project and the environment of its key; null if the request had no valid key. */
export type AnyRequestRow = RequestRow & { project_id: string | null; mode: 'live' | 'test' | null }

/** What a resource waits for after a span, until its next span. */
export const WAITS = ['queue', 'image', 'boot', 'shutdown', 'retry'] as const
export type Wait = (typeof WAITS)[number]

/** Kinds of recorded spans; the API also returns `call`, `transaction`, the waits and `event`. */
export const RECORDED_KINDS = ['step', 'ready', 'status', 'delivery'] as const

/** An effect of a request, recorded when it has ended. */
export type NewSpan = {
  environment_id: string
  /** The `request_id` of the request, from the desired state. */
  request_id: string
  /** ID of the resource. */
  resource: string
  /** Real time. */
  started_at: Date
  name: string
  kind: (typeof RECORDED_KINDS)[number]
  duration_ms: number
  status: 'ok' | 'failed'
  waits_for: Wait | null
  /** Small and public; for a delivery, `event` is the type of its event, which is the parent span. */
  detail: Record<string, string | number | boolean | null>
}
export type SpanRow = NewSpan

/** Ordinals per millisecond: `ordinal = milliseconds since 1970 × 2048 + tick`, below 2^53 until the year 2109. */
export const TICKS = 2048
