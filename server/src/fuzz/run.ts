/**
 * The fuzzer: sequences of requests of two tenants against the whole control plane with simulated machines. Each sequence
 * starts with two new projects, so a failing one shrinks to the requests that matter. The two tenants act concurrently,
 * each one step after the other.
 */
import fc from 'fast-check'
import type { OpenapiDocument } from '../http/openapi-document.ts'
import type { World } from '../instances/testing-world.ts'
import { operationsOf } from './document.ts'
import type { Report } from './report.ts'
import { Runner } from './runner.ts'
import { sequences } from './steps.ts'

const RUNS_PER_SEED = 25

/** Sends at least this many requests. Throws with the seed and the shortest failing sequence as curl. */
export async function fuzz(
  world: World,
  options: { requests: number; seed: number; progress?: (report: Report) => void },
): Promise<Report> {
  await world.app.ready()
  const document = world.app.swagger() as unknown as OpenapiDocument
  // Both tenants are ordinary ones; operations of the operator's keys are left out.
  const operations = operationsOf(document).filter(({ scope }) => scope !== 'admin')
  const report: Report = { requests: 0, sequences: 0, coverage: new Map(), statuses: new Map() }
  for (const { id } of operations)
    report.coverage.set(id, { sent: 0, valid: 0, accepted: 0, rejected: 0, notFound: 0, aborted: 0 })
  const runner = new Runner(world, document, operations, report)
  await runner.start()
  const property = fc.asyncProperty(sequences(operations, document.components.schemas), (steps) => runner.run(steps))
  for (let seed = options.seed; report.requests < options.requests; seed++) {
    const run = await fc.check(property, { seed, numRuns: RUNS_PER_SEED })
    options.progress?.(report)
    if (!run.failed) continue
    const cause = run.errorInstance as Error | undefined
    const again = `npm run fuzz -- --requests 1 --seed ${seed}`
    throw new Error(
      `${cause?.message ?? 'failed'}\n\nAfter ${report.requests} requests, shrunk ${run.numShrinks} times. Again: ${again}`,
      { cause },
    )
  }
  return report
}
