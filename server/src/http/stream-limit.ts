import type { Principal } from '../keys/principal.ts'
import { ApiError } from '../lib/errors.ts'

/** A response, as far as its end is concerned. */
export type ClosableResponse = { once(event: 'close', listener: () => void): unknown }

/** How many streams may be open. `hint`: what a client can do instead of opening more. */
export type StreamLimit = { per_key: number; per_process: number; hint: string }

/** Returns a function that counts a stream until its connection is closed. It throws `rate_limited` at the maximum. */
export function createStreamLimit({ per_key, per_process, hint }: StreamLimit) {
  const open = new Map<string, number>()
  let total = 0
  return function countStream({ key_id }: Principal, response: ClosableResponse): void {
    const count = open.get(key_id) ?? 0
    const retry = { headers: { 'retry-after': '5' } }
    if (count >= per_key)
      throw new ApiError('rate_limited', `The key already has ${per_key} open streams, the maximum. ${hint}`, retry)
    if (total >= per_process)
      throw new ApiError('rate_limited', 'The server has as many open streams as it can serve. Retry later.', retry)
    open.set(key_id, count + 1)
    total++
    response.once('close', () => {
      total--
      const left = open.get(key_id)! - 1
      if (left > 0) open.set(key_id, left)
      else open.delete(key_id)
    })
  }
}
