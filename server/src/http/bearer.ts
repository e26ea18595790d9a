/** The key of a request's `Authorization: Bearer …`; null when there is none. */
export function bearer(authorization: string | undefined): string | null {
  return authorization !== undefined && /^bearer /i.test(authorization) ? authorization.slice(7).trim() : null
}
