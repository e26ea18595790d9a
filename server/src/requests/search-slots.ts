/**
 * Searches of the request log can read many rows. They run in a few slots, of which a project has a part, so that the
 * database connections that all other requests need stay free.
 */
import { ApiError } from '../lib/errors.ts'
import { createSlots, SlotsFull } from '../lib/slots.ts'

const LIMITS = { total: 4, per_owner: 2, waiting_per_owner: 20 }

/** Returns a function that runs a search of a project. It throws `rate_limited` if too many of its searches wait. */
export function createSearchSlots() {
  const inSlot = createSlots(LIMITS)
  return async function search<T>(project: string, work: () => Promise<T>): Promise<T> {
    return inSlot(project, work).catch((error: unknown) => {
      if (!(error instanceof SlotsFull)) throw error
      const detail = 'Too many searches of the request log by this project are waiting. Wait for their results.'
      throw new ApiError('rate_limited', detail, { headers: { 'retry-after': '1' } })
    })
  }
}
