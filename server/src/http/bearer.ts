/** The key in an `Authorization: Bearer …` header; null when there is none. */
export function bearer(authorization: string | undefined): string | null {
  return authorization !== undefined && /^bearer /i.test(authorization) ? authorization.slice(7).trim() : null
}
