/** A time in the format of the API: RFC 3339, UTC, whole seconds (`2025-01-15T08:32:14Z`). */
export function timestamp(date: Date): string {
  return `${date.toISOString().slice(0, 19)}Z`
}

/** The same for a time that may be absent. */
export const timeOrNull = (date: Date | null): string | null => (date ? timestamp(date) : null)
