import type { Sql } from '../db/database.ts'
import type { Engine } from '../engine/loop.ts'
import type { Readiness } from '../http/service.ts'
import { atMost, type Clock } from '../lib/clock.ts'

const DATABASE_MS = 2_000

/** The checks of `/readyz`: database, engine, and the adoption of running machines at start. */
export function createReadiness({ sql, engine, clock }: { sql: Sql; engine: Engine; clock: Clock }): {
  check(): Promise<Readiness[]>
  adopted(): void
} {
  let isAdopted = false

  async function databaseProblem(): Promise<string | null> {
    const probe = sql`select 1`.then(
      () => null,
      () => 'does not respond',
    )
    const problem = await atMost(clock, DATABASE_MS, probe)
    return problem === undefined ? 'does not respond in time' : problem
  }

  return {
    check: async () => [
      { name: 'database', problem: await databaseProblem() },
      { name: 'engine', problem: engine.problem() },
      { name: 'drivers', problem: isAdopted ? null : 'running machines are being adopted' },
    ],
    adopted() {
      isAdopted = true
    },
  }
}
