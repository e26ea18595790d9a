/**
 * Runs the tests, several files at a time; test-files.ts decides which.
 *
 *   npm test                the check, the unit tests and the end-to-end tests
 *   npm test -- FILE…       only these files, one after the other
 *   npm run test:quick      the check and the unit tests that boot no guest and are not long
 *   npm run test:long       everything with full numbers, for hours: property cases, fuzzed requests, seeds, kills
 *
 * Options that begin with --test- are passed to Node's runner.
 *
 * Everything runs below one temporary folder, which the command line or the environment of each process that a test
 * started names. A process that still runs at the end is a leak: it is printed, ended by its pid, and the run fails.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { run as runFiles } from 'node:test'
import { spec } from 'node:test/reporters'
import { startTestServer } from '../server/src/db/test-server.ts'
import { endProcesses, processesOf } from './leftovers.ts'
import { endToEndTests, soakTests, unitTests } from './test-files.ts'

const MINUTE = 60_000
/** The slowest files of a run are printed: the lists of test-files.ts follow from them. */
const PRINTED_FILES = 10
const USAGE = 'npm test -- [--test-…] [FILE…]'

type Stage = { name: string; run: (signal: AbortSignal) => Promise<boolean> }
type Options = { concurrency: number; minutes: number; execArgv?: string[] }

const root = join(import.meta.dirname, '..')
const { stages, files, options } = parse(process.argv.slice(2))
const durations = new Map<string, number>()

const folder = mkdtempSync(join(tmpdir(), 'cnt-'))
chmodSync(folder, 0o1777) // Like /tmp: processes of other users create files in it.
process.env.TEST_CACHE_DIR ??= tmpdir() // The image of the tests is built once and not in each run.
process.env.TMPDIR = folder
// Node compiles the sources and packages once, and not again in each test file and each control plane.
process.env.NODE_COMPILE_CACHE ??= join(root, 'node_modules/.cache/compile')
const begin = performance.now()
const interrupted = new AbortController()
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => interrupted.abort())

const server = await startTestServer()
process.env.TEST_DATABASE_URL = server.url
const results: { name: string; seconds: string; ok: boolean }[] = []
for (const { name, run } of stages()) {
  if (interrupted.signal.aborted) break
  const since = performance.now()
  process.stdout.write(`\n${name}\n`)
  const ok = await run(interrupted.signal)
  results.push({ name, seconds: seconds(performance.now() - since), ok })
}
await server.stop()

const leaks = processesOf(folder, process.pid)
for (const { pid, command } of leaks)
  process.stdout.write(`still running at the end: ${pid} ${command.slice(0, 200)}\n`)
await endProcesses(leaks)
rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 })

printSlowest()
for (const { name, seconds, ok } of results) process.stdout.write(`${ok ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)\n`)
process.stdout.write(`total ${seconds(performance.now() - begin)} s\n`)
const hasPassed = results.length > 0 && results.every(({ ok }) => ok)
process.exit(hasPassed && leaks.length === 0 && !interrupted.signal.aborted ? 0 : 1)

function parse(args: string[]): { stages: () => Stage[]; files: string[]; options: string[] } {
  const modes: Record<string, () => Stage[]> = { '--quick': quickStages, '--long': longStages }
  const options = args.filter((arg) => arg.startsWith('--test-'))
  const files = args.filter((arg) => !arg.startsWith('--')).map((file) => relative(root, file))
  const others = args.filter((arg) => arg.startsWith('--') && !options.includes(arg))
  const unknown = others.filter((arg) => !(arg in modes))
  if (unknown.length > 0 || others.length > 1 || (others.length > 0 && files.length > 0)) {
    process.stderr.write(`${unknown.length > 0 ? `There is no option ${unknown.join(', ')}. ` : ''}Usage: ${USAGE}\n`)
    process.exit(1)
  }
  return { stages: modes[others[0] ?? ''] ?? allStages, files, options }
}

/** The numbers of files at a time are for two cores: of three files one waits, and a guest occupies one core. */
function allStages(): Stage[] {
  if (files.length > 0) return [tests('files', files, { concurrency: 1, minutes: 60 })]
  return [
    script('check', 'check.ts'),
    tests('unit tests', unitTests(), { concurrency: 3, minutes: 10 }),
    tests('end-to-end tests', endToEndTests(), { concurrency: 2, minutes: 15 }),
  ]
}

function quickStages(): Stage[] {
  const quick = unitTests({ quick: true })
  return [script('check', 'check.ts'), tests('quick unit tests', quick, { concurrency: 3, minutes: 2 })]
}

function longStages(): Stage[] {
  const execArgv = ['--import', join(import.meta.dirname, 'test-more-cases.ts')]
  return [
    tests('unit tests, ten times the property cases', unitTests(), { concurrency: 3, minutes: 60, execArgv }),
    script('simulation, 10,000 seeds', 'simulate.ts', '--seeds', '10000'),
    script('fuzzer, 100,000 requests', 'fuzz.ts', '--requests', '100000'),
    tests('end-to-end tests', endToEndTests(), { concurrency: 2, minutes: 15 }),
    tests('soak tests: 200 kills under load, 20 kills of one guest', soakTests(), { concurrency: 1, minutes: 120 }),
  ]
}

function script(name: string, file: string, ...args: string[]): Stage {
  const run = (signal: AbortSignal) =>
    new Promise<boolean>((resolve) => {
      const stdio = ['ignore', 'inherit', 'inherit'] as const
      const child: ChildProcess = spawn(process.execPath, [`scripts/${file}`, ...args], {
        cwd: root,
        stdio: [...stdio],
      })
      signal.addEventListener('abort', () => child.kill('SIGTERM'))
      child.on('close', (code) => resolve(code === 0))
    })
  return { name, run }
}

/** Node's own runner, called by function because its command line sorts the files by name. */
function tests(name: string, found: string[], { concurrency, minutes, execArgv = [] }: Options): Stage {
  const run = async (signal: AbortSignal) => {
    const timeout = minutes * MINUTE
    const stream = runFiles({
      files: found,
      cwd: root,
      concurrency,
      timeout,
      signal,
      execArgv: [...execArgv, ...options],
    })
    let hasPassed = true
    stream.on('test:summary', ({ file, success, duration_ms }) => {
      if (!success) hasPassed = false
      if (file !== undefined) durations.set(relative(root, file), duration_ms)
    })
    stream.on('test:fail', ({ todo }) => {
      if (todo === undefined) hasPassed = false
    })
    for await (const text of stream.compose(spec)) process.stdout.write(text)
    return hasPassed
  }
  return { name, run }
}

function printSlowest(): void {
  if (files.length > 0) return
  const slowest = [...durations].sort(([, a], [, b]) => b - a).slice(0, PRINTED_FILES)
  process.stdout.write('\nslowest files\n')
  for (const [file, ms] of slowest) process.stdout.write(`${seconds(ms).padStart(7)} s ${file}\n`)
  process.stdout.write('\n')
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(1)
}
