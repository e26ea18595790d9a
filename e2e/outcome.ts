/**
 * What a response says about a request while processes are being killed. Only a 503, a 507 (a full disk) and a connection that
 * broke leave it open whether the request took effect. Every other 5xx is a defect of the control plane.
 */
import type { ApiResponse } from './control-plane.ts'
import { findingsOf, InvariantViolationError } from './watch.ts'

/** `unknown`: the response does not show whether the request took effect. */
export type Outcome = 'done' | 'refused' | 'unknown'

/** The codes of a connection whose other end was killed or does not listen yet. */
const CONNECTION_ERRORS = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET'])

/** The outcome of a request by the status of its response; throws for a 5xx other than 503 and 507. */
export function outcomeOf(request: string, { status, body }: Pick<ApiResponse, 'status' | 'body'>): Outcome {
  if ([429, 503, 507].includes(status)) return 'unknown'
  if (status >= 500) {
    throw new InvariantViolationError(findingsOf('responses', [`${request}: ${status} ${JSON.stringify(body)}`]))
  }
  return status < 300 ? 'done' : 'refused'
}

/** Whether `fetch` failed because the connection broke; any other error is a defect of the test or of the response. */
export function isBrokenConnection(error: unknown): boolean {
  const cause = error instanceof TypeError ? (error.cause as { code?: string } | undefined) : undefined
  return CONNECTION_ERRORS.has(cause?.code ?? '')
}

/** The response of a request; null when its outcome is unknown. */
export async function responseOf<T extends Pick<ApiResponse, 'status' | 'body'>>(
  request: string,
  response: Promise<T>,
): Promise<T | null> {
  try {
    const received = await response
    return outcomeOf(request, received) === 'unknown' ? null : received
  } catch (error) {
    if (isBrokenConnection(error)) return null
    throw error
  }
}
