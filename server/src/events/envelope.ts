import { timestamp } from '../lib/timestamp.ts'

/** A stored event; `data` is the text of a JSON object `{ object, previous?, details? }`. */
export type EventRow = {
  id: string
  type: string
  environment: 'live' | 'test'
  created_at: Date
  sequence: number
  request_id: string | null
  data: string
}

/** The event as JSON text, with the same bytes in every response, stream and delivery. */
export function envelopeOf({ data, ...row }: EventRow): string {
  const { id, type, environment, created_at, sequence, request_id } = row
  const head = { id, type, environment, created_at: timestamp(created_at), sequence, request_id }
  return `${JSON.stringify(head).slice(0, -1)},"data":${data}}`
}
