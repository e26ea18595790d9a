import type { Sql } from '../db/database.ts'
import type { Engine } from '../engine/loop.ts'
import type { Readiness } from '../http/service.ts'
import { atMost, type Clock } from '../lib/clock.ts'

const DATABASE_MS = 2_000
/** Between two probes of the database and the disk: `/readyz` needs no key, so it must cost little. */
const INTERVAL_MS = 1_000
/** PostgreSQL stops when it cannot write. */
const LEAST_FREE_BYTES = 2 ** 28

type Parts = { sql: Sql; engine: Engine; clock: Clock; freeBytes: () => number }

/** The checks of `/readyz`: database, disk, engine, and the adoption of running machines at start. */
export function createReadiness({ sql, engine, clock, freeBytes }: Parts): {
  check(): Promise<Readiness[]>
  adopted(): void
} {
  let isAdopted = false
  let probe: Promise<Readiness[]> | null = null
  let probedAt = Number.NEGATIVE_INFINITY

  /** A probe in progress, or one that ended less than a second ago, or a new one. */
  function probed(): Promise<Readiness[]> {
    if (probe === null || clock.monotonic() - probedAt >= INTERVAL_MS) {
      probedAt = Number.POSITIVE_INFINITY
      probe = Promise.all([
        databaseProblem().then((problem) => ({ name: 'database', problem })),
        { name: 'disk', problem: diskProblem() },
      ])
      void probe.finally(() => {
        probedAt = clock.monotonic()
      })
    }
    return probe
  }

  async function databaseProblem(): Promise<string | null> {
    const write = sql`
      insert into readiness (checked_at) values (now()) on conflict (is_only) do update set checked_at = excluded.checked_at`
    const written = write.then(
      () => null,
      () => 'does not accept a write',
    )
    const problem = await atMost(clock, DATABASE_MS, written)
    return problem === undefined ? 'does not respond in time' : problem
  }

  function diskProblem(): string | null {
    try {
      if (freeBytes() >= LEAST_FREE_BYTES) return null
      return `less than ${LEAST_FREE_BYTES / 2 ** 20} MiB are free on the file system of the data directory`
    } catch {
      return 'the file system of the data directory cannot be read'
    }
  }

  return {
    check: async () => [
      ...(await probed()),
      { name: 'engine', problem: engine.problem() },
      { name: 'drivers', problem: isAdopted ? null : 'running machines are being adopted' },
    ],
    adopted() {
      isAdopted = true
    },
  }
}
