/** `npm run simulate -- [--seeds N] [--seed S] [--steps N] [--bug NAME]`: histories of the whole control plane; a seed is one. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { BUGS } from '../server/src/simulation/bugs.ts'

const text = { type: 'string' } as const
const { values } = parseArgs({
  options: { seeds: text, seed: text, steps: text, bug: text, 'no-receivers': { type: 'boolean' } },
})
const { seed = '1', seeds = values.seed === undefined ? '50' : '1', steps = '200', bug } = values
for (const [name, given] of Object.entries({ seeds, seed, steps })) {
  if (!/^\d+$/.test(given)) fail(`--${name} is a whole number`)
}
if (bug !== undefined && !(bug in BUGS)) fail(`--bug is one of ${Object.keys(BUGS).join(', ')}`)
const file = join(import.meta.dirname, '../server/src/simulation/simulation.test.ts')
const env = {
  ...process.env,
  ...{ SIMULATE_SEEDS: seeds, SIMULATE_SEED: seed, SIMULATE_STEPS: steps },
  ...(bug && { SIMULATE_BUG: bug }),
  ...(values['no-receivers'] && { SIMULATE_RECEIVERS: 'false' }),
}
const args = ['--test', '--test-reporter=spec', '--test-timeout=86400000', file]
spawn(process.execPath, args, { env, stdio: ['ignore', 'inherit', 'inherit'] }).on('close', (code) =>
  process.exit(code ?? 1),
)

function fail(why: string): never {
  process.stderr.write(`${why}: npm run simulate -- [--seeds N] [--seed S] [--steps N] [--bug NAME]\n`)
  process.exit(1)
}
