/**
 * `npm run simulate -- [--seeds N] [--seed S] [--steps N] [--jobs N] [--no-receivers] [--mutant NAME]`: histories of the
 * whole control plane; a seed is one. Several processes share the seeds, each with a database of its own.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startTestServer } from '../server/src/db/test-server.ts'
import { MUTANTS } from '../server/src/simulation/mutants.ts'

const text = { type: 'string' } as const
const { values } = parseArgs({
  options: { seeds: text, seed: text, steps: text, jobs: text, mutant: text, 'no-receivers': { type: 'boolean' } },
})
const { seed = '1', seeds = values.seed === undefined ? '50' : '1', steps = '200', mutant } = values
const { jobs = String(availableParallelism()) } = values
for (const [name, given] of Object.entries({ seeds, seed, steps, jobs })) {
  if (!/^\d{1,9}$/.test(given)) fail(`--${name} is a whole number`)
}
if (mutant !== undefined && !(mutant in MUTANTS)) fail(`--mutant is one of ${Object.keys(MUTANTS).join(', ')}`)

const file = join(import.meta.dirname, '../server/src/simulation/simulation.test.ts')
const args = ['--test', '--test-reporter=spec', '--test-timeout=86400000', file]
const count = Math.max(1, Math.min(Number(jobs), Number(seeds)))
const children: ChildProcess[] = []
let interrupted = false
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    interrupted = true
    for (const child of children) child.kill('SIGTERM')
  })
}
const server = await startTestServer()
const codes = Array.from({ length: count }, async (_, job) => {
  const from = Math.floor((Number(seeds) * job) / count)
  const to = Math.floor((Number(seeds) * (job + 1)) / count)
  const env = {
    ...process.env,
    TEST_DATABASE_URL: server.url,
    SIMULATE_SEEDS: `${to - from}`,
    SIMULATE_SEED: `${Number(seed) + from}`,
    SIMULATE_STEPS: steps,
    ...(values['no-receivers'] && { SIMULATE_RECEIVERS: 'false' }),
    ...(mutant && { SIMULATE_MUTANT: mutant }),
  }
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'inherit', 'inherit'] })
  children.push(child)
  const [code] = (await once(child, 'close')) as [number | null]
  return code ?? 1
})
const worst = Math.max(...(await Promise.all(codes)))
await server.stop()
process.exitCode = interrupted ? 1 : worst

function fail(why: string): never {
  process.stderr.write(
    `${why}: npm run simulate -- [--seeds N] [--seed S] [--steps N] [--jobs N] [--no-receivers] [--mutant NAME]\n`,
  )
  process.exit(1)
}
