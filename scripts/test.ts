/**
 * `npm test`: the checks, the unit tests, the end-to-end tests, several files at a time. `npm test -- FILE…`
 * runs only these files, one after the other; `--soak` the long tests; options that begin with --test- go to Node's runner.
 *
 * Everything runs below one temporary folder, which names each process that a test started. What still runs at the end
 * is a leak: it is named, ended by its pid, and the run has failed.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, globSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startTestServer } from '../server/src/db/test-server.ts'
import { endProcesses, processesOf } from './leftovers.ts'

const MINUTE = 60_000
const root = join(import.meta.dirname, '..')
const args = process.argv.slice(2)
const options = args.filter((arg) => arg.startsWith('--test-'))
const files = args.filter((arg) => !arg.startsWith('--'))
const unknown = args.filter((arg) => arg.startsWith('--') && arg !== '--soak' && !options.includes(arg))
if (unknown.length > 0) fail(`There is no option ${unknown.join(', ')}: npm test -- [--soak] [--test-…] [FILE…]`)

type Stage = { name: string; args: string[] }

const folder = mkdtempSync(join(tmpdir(), 'cnt-'))
chmodSync(folder, 0o1777) // as the temporary folder that it stands for: other users walk through it and make theirs
process.env.TMPDIR = folder
// Node compiles the sources and packages once, and not again in each test file and each control plane.
process.env.NODE_COMPILE_CACHE ??= join(root, 'node_modules/.cache/compile')
const begin = performance.now()
let running: ChildProcess | null = null
let interrupted = false
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    interrupted = true
    running?.kill('SIGTERM')
  })
}

const server = await startTestServer()
process.env.TEST_DATABASE_URL = server.url
const results: { name: string; seconds: string; ok: boolean }[] = []
for (const stage of stages()) {
  if (interrupted) break
  results.push(await run(stage))
}
await server.stop()

const leaks = processesOf(folder, process.pid)
for (const { pid, command } of leaks)
  process.stdout.write(`still running at the end: ${pid} ${command.slice(0, 200)}\n`)
await endProcesses(leaks)
rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 })

for (const { name, seconds, ok } of results) process.stdout.write(`${ok ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)\n`)
process.stdout.write(`total ${seconds(begin)} s\n`)
const passed = results.length > 0 && results.every((result) => result.ok) && leaks.length === 0 && !interrupted
process.exit(passed ? 0 : 1)

/** For two cores: of three files one waits for something, and guests boot on one core each. */
function stages(): Stage[] {
  if (files.length > 0) return [tests('files', files, 1, 60)]
  if (args.includes('--soak')) return [tests('soak tests', find('e2e/soak/**/*.test.ts'), 1, 120)]
  const endToEnd = find('e2e/**/*.test.ts').filter((file) => !file.startsWith('e2e/soak/'))
  return [
    { name: 'check', args: ['scripts/check.ts'] },
    tests('unit tests', find('{server/src,scripts}/**/*.test.ts'), 3, 10),
    ...(endToEnd.length > 0 ? [tests('end-to-end tests', endToEnd, 2, 15)] : []),
  ]
}

function tests(name: string, found: string[], concurrency: number, minutes: number): Stage {
  if (found.length === 0) fail(`There are no ${name} to run.`)
  const limits = [`--test-concurrency=${concurrency}`, `--test-timeout=${minutes * MINUTE}`]
  return { name, args: ['--test', '--test-reporter=spec', ...limits, ...options, ...found] }
}

function find(pattern: string): string[] {
  return globSync(pattern, { cwd: root, exclude: ['**/node_modules/**'] }).sort()
}

function run(stage: Stage): Promise<{ name: string; seconds: string; ok: boolean }> {
  const since = performance.now()
  process.stdout.write(`\n${stage.name}\n`)
  return new Promise((resolve) => {
    running = spawn(process.execPath, stage.args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
    running.on('close', (code) => resolve({ name: stage.name, seconds: seconds(since), ok: code === 0 }))
  })
}

function seconds(since: number): string {
  return ((performance.now() - since) / 1000).toFixed(1)
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}
