/** What must hold at every moment of a crash loop is looked at all the time, so that a broken build is soon found. */
import type { Sql } from '../server/src/db/database.ts'
import { DatabaseUnavailableError } from '../server/src/lib/errors.ts'
import { BOOKS } from '../server/src/matrix/audit.ts'
import { lastMove } from '../server/src/matrix/probes.ts'
import { type MachineProbe, probeMachines } from './one-machine-per-disk.ts'

/** `machines`: two processes of an instance; `journal`: not what clients were told; the rest are parts of the audit. */
export type Finding = { kind: keyof typeof BOOKS | 'machines' | 'journal' | 'deliveries'; text: string }

/** The build does not do what it should. */
export class BrokenBuildError extends Error {
  readonly findings: Finding[]

  constructor(findings: Finding[], options?: ErrorOptions) {
    super(findings.map(({ kind, text }) => `${kind}: ${text}`).join('\n'), options)
    this.findings = findings
  }
}

export const findingsOf = (kind: Finding['kind'], texts: string[]): Finding[] => texts.map((text) => ({ kind, text }))

/** The parts of the audit that hold in every snapshot. The system's environment has keys, and no instances. */
const ALWAYS = {
  live: ['wakes', 'events', 'launches'],
  test: ['wakes', 'events', 'launches'],
  system: ['wakes'],
} as const

const GLANCE_MS = 2_000

export class Watch {
  readonly #owner: Sql
  readonly #machines: MachineProbe
  /** Numbers of the last moves at the looks before; what a transaction then had under way is looked at once more. */
  #seen = [0, 0]
  #looked_at = performance.now()

  constructor(owner: Sql, dataDir: string) {
    this.#owner = owner
    this.#machines = probeMachines(dataDir)
  }

  /** Everything, as of one moment; of the database nothing while it is away. */
  async look(): Promise<Finding[]> {
    this.#looked_at = performance.now()
    const books = await this.#owner
      .begin(async (tx) => {
        await tx.unsafe('set transaction isolation level repeatable read')
        const environments = await tx<{ id: string; mode: keyof typeof ALWAYS }[]>`select id, mode from environments`
        const findings: Finding[] = []
        for (const { id, mode } of environments)
          for (const kind of ALWAYS[mode]) findings.push(...findingsOf(kind, await BOOKS[kind](tx, id, this.#seen[0])))
        this.#seen = [this.#seen[1]!, await lastMove(tx)]
        return findings
      })
      .catch((error) => {
        if (error instanceof DatabaseUnavailableError) return []
        throw error
      })
    return [...findingsOf('machines', this.#machines.findings()), ...books]
  }

  /** Looks, and throws when anything was found. */
  async check(): Promise<void> {
    const findings = await this.look()
    if (findings.length > 0) throw new BrokenBuildError(findings)
  }

  /** The same for those who come by often: at the processes always, at the database now and then. */
  async glance(): Promise<void> {
    if (this.#machines.findings().length > 0 || performance.now() - this.#looked_at > GLANCE_MS) await this.check()
  }

  stop(): void {
    this.#machines.stop()
  }
}
