/** The counts of a fuzzer run. */

/** Counts of an operation's requests. */
export type Coverage = {
  sent: number
  /** Requests without an attack, for resources that exist. */
  valid: number
  accepted: number
  rejected: number
  notFound: number
  aborted: number
}
export type Report = {
  requests: number
  sequences: number
  coverage: Map<string, Coverage>
  statuses: Map<number, number>
}
