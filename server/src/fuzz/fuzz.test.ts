/** Runs the fuzzer with FUZZ_REQUESTS requests (see `npm run fuzz`). */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { testConfig } from '../http/testing.ts'
import { createWorld } from '../instances/testing-world.ts'
import { createLog } from '../lib/log.ts'
import type { Coverage, Report } from './report.ts'
import { fuzz } from './run.ts'

const requests = Number(process.env.FUZZ_REQUESTS ?? 5_000)
const seed = Number(process.env.FUZZ_SEED ?? 20_250_115)

const data_dir = mkdtempSync(join(tmpdir(), 'cn-fuzz-'))
/** The log in the production format, checked line by line. */
const log = { lines: 0, faults: [] as string[] }
const destination = {
  write(text: string) {
    for (const line of text.split('\n').slice(0, -1)) checkLine(line)
    if (!text.endsWith('\n')) log.faults.push(`incomplete line: ${text}`)
  },
}

function checkLine(line: string): void {
  log.lines++
  try {
    const { level, error } = JSON.parse(line) as { level: number; error?: string }
    // An injected request has no socket, so aborting it is logged as an error of its stream.
    if (level >= 50 && !error?.includes('add-abort-signal')) log.faults.push(line)
  } catch {
    log.faults.push(`not JSON: ${JSON.stringify(line)}`)
  }
  if (/\p{Cc}/u.test(line)) log.faults.push(`control characters: ${JSON.stringify(line)}`)
  if (/cn_(live|test)_sk_[0-9A-Za-z]{10}/.test(line)) log.faults.push(`API key: ${line}`)
}

const world = await createWorld({
  seed,
  deps: { config: { ...testConfig, data_dir }, log: createLog({ level: 'info', pretty: false, destination }) },
})
after(async () => {
  await world.stop()
  rmSync(data_dir, { recursive: true })
})

test(`${requests} requests from the seed ${seed}`, { timeout: 24 * 3_600_000 }, async (context) => {
  const begin = performance.now()
  const report = await fuzz(world, { requests, seed, progress: printProgress })
  const seconds = (performance.now() - begin) / 1000
  const statuses = [...report.statuses].sort(([a], [b]) => a - b).map(([status, count]) => `${status}: ${count}`)
  context.diagnostic(
    `seed ${seed}: ${report.requests} requests in ${report.sequences} sequences, ${seconds.toFixed(0)} s`,
  )
  context.diagnostic(`statuses: ${statuses.join(', ')}`)
  for (const [id, seen] of report.coverage) context.diagnostic(`${id.padEnd(24)} ${describe(seen)}`)
  assert.deepEqual(log.faults, [])
  assert.ok(log.lines >= requests / 2, `${log.lines} lines in the log`)
  // An operation that never succeeds is not tested: its example is wrong, or its resource is never in the required state.
  const neverAccepted = [...report.coverage]
    .filter(([, seen]) => seen.valid >= 40 && seen.accepted === 0)
    .map(([id]) => id)
  assert.deepEqual(neverAccepted, [])
})

let printed = 0
/** Prints a line every 10,000 requests. */
function printProgress({ requests: sent }: Report): void {
  if (sent < printed + 10_000) return
  printed = sent
  process.stderr.write(`${sent} requests, ${Math.round(process.memoryUsage.rss() / 1e6)} MB\n`)
}

function describe({ sent, valid, accepted, rejected, notFound, aborted }: Coverage): string {
  return `${sent} sent, ${accepted} of ${valid} valid ones accepted, ${rejected} rejected, ${notFound} not found, ${aborted} aborted`
}
