/** `npm run fuzz -- [--requests N] [--seed N]`: runs the fuzzer; the same seed sends the same requests. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { systemRandom } from '../server/src/lib/random.ts'

const { values } = parseArgs({ options: { requests: { type: 'string' }, seed: { type: 'string' } } })
const requests = values.requests ?? '100000'
const seed = values.seed ?? String(systemRandom.integer(2 ** 31))
for (const [name, text] of Object.entries({ requests, seed })) {
  if (/^\d+$/.test(text)) continue
  process.stderr.write(`--${name} must be a whole number: npm run fuzz -- [--requests N] [--seed N]\n`)
  process.exit(1)
}
process.stdout.write(`fuzz: ${requests} requests, seed ${seed}\n`)
const file = join(import.meta.dirname, '../server/src/fuzz/fuzz.test.ts')
const env = { ...process.env, FUZZ_REQUESTS: requests, FUZZ_SEED: seed }
const args = ['--test', '--test-reporter=spec', '--test-timeout=86400000', file]
const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'inherit', 'inherit'] })
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => child.kill('SIGTERM'))
child.on('close', (code) => process.exit(code ?? 1))
