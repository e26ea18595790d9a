import type { Sql } from '../db/database.ts'
import type { Engine } from '../engine/loop.ts'
import type { Readiness } from '../http/service.ts'
import { atMost, type Clock } from '../lib/clock.ts'

const DATABASE_MS = 2_000

/** What `/readyz` answers: database, engine, and the first adoption of the machines that ran already. */
export function createReadiness({ sql, engine, clock }: { sql: Sql; engine: Engine; clock: Clock }): {
  check(): Promise<Readiness[]>
  adopted(): void
} {
  let isAdopted = false

  async function databaseProblem(): Promise<string | null> {
    const answer = sql`select 1`.then(
      () => null,
      () => 'does not answer',
    )
    const problem = await atMost(clock, DATABASE_MS, answer)
    return problem === undefined ? 'does not answer in time' : problem
  }

  return {
    check: async () => [
      { name: 'database', problem: await databaseProblem() },
      { name: 'engine', problem: engine.problem() },
      { name: 'drivers', problem: isAdopted ? null : 'the machines that run are being adopted' },
    ],
    adopted() {
      isAdopted = true
    },
  }
}
