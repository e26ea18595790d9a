/** Checks during a crash loop the invariants that hold at every moment, so that a violation ends the loop soon. */
import type { Sql } from '../server/src/db/database.ts'
import { DatabaseUnavailableError } from '../server/src/lib/errors.ts'
import { LEDGERS } from '../server/src/testing/audit.ts'
import { lastChange } from '../server/src/testing/probes.ts'
import { type MachineProbe, probeMachines } from './one-machine-per-disk.ts'

/**
 * `machines`: two processes of an instance; `journal`: a difference from the acknowledged requests; `responses`: a 5xx other
 * than 503; the others are ledgers of the audit.
 */
export type Finding = { kind: keyof typeof LEDGERS | 'machines' | 'journal' | 'deliveries' | 'responses'; text: string }

/** An invariant does not hold. */
export class InvariantViolationError extends Error {
  readonly findings: Finding[]

  constructor(findings: Finding[], options?: ErrorOptions) {
    super(findings.map(({ kind, text }) => `${kind}: ${text}`).join('\n'), options)
    this.findings = findings
  }
}

export const findingsOf = (kind: Finding['kind'], texts: string[]): Finding[] => texts.map((text) => ({ kind, text }))

/** The ledgers that hold in every snapshot. The system environment has work keys but no instances. */
const ALWAYS = {
  live: ['wakes', 'events', 'launches'],
  test: ['wakes', 'events', 'launches'],
  system: ['wakes'],
} as const

/** Time between two checks of the database by `poll`. */
const INTERVAL_MS = 2_000

export class Watch {
  readonly #owner: Sql
  readonly #machines: MachineProbe
  /**
   * Numbers of the last changes at the two previous checks. A transaction that was open at one check can commit lower numbers
   * after it, so each check also repeats the changes before the previous one.
   */
  #lastChanges = [0, 0]
  #checked_at = performance.now()

  constructor(owner: Sql, dataDir: string) {
    this.#owner = owner
    this.#machines = probeMachines(dataDir)
  }

  /** All violations, in one snapshot; while the database is unavailable, only those of processes. */
  async findings(): Promise<Finding[]> {
    this.#checked_at = performance.now()
    const ledgers = await this.#owner
      .begin(async (tx) => {
        await tx.unsafe('set transaction isolation level repeatable read')
        const environments = await tx<{ id: string; mode: keyof typeof ALWAYS }[]>`select id, mode from environments`
        const findings: Finding[] = []
        for (const { id, mode } of environments)
          for (const kind of ALWAYS[mode])
            findings.push(...findingsOf(kind, await LEDGERS[kind](tx, id, this.#lastChanges[0])))
        this.#lastChanges = [this.#lastChanges[1]!, await lastChange(tx)]
        return findings
      })
      .catch((error) => {
        if (error instanceof DatabaseUnavailableError) return []
        throw error
      })
    return [...findingsOf('machines', this.#machines.findings()), ...ledgers]
  }

  /** Throws an InvariantViolationError when there is any violation. */
  async check(): Promise<void> {
    const findings = await this.findings()
    if (findings.length > 0) throw new InvariantViolationError(findings)
  }

  /** The same for frequent callers: checks processes on every call, and the database every two seconds. */
  async poll(): Promise<void> {
    if (this.#machines.findings().length > 0 || performance.now() - this.#checked_at > INTERVAL_MS) await this.check()
  }

  stop(): void {
    this.#machines.stop()
  }
}
