/**
 * What every commit must pass beside the tests: types, style and the length of functions (biome.json), file sizes, words, no
 * unused exports, files or dependencies (knip.json), licences and advisories of the dependencies, fresh generated files, and
 * a strict ruleset for the API description (redocly.yaml).
 */
import { spawn } from 'node:child_process'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { dependencyFaults } from './check-dependencies.ts'
import { generateAll } from './generated.ts'
import { checkFiles } from './words/check.ts'

const root = join(import.meta.dirname, '..')
const bin = join(root, 'node_modules/.bin')

/** Lines of hand-written source files without tests. */
const SIZES = { median: 75, p90: 300, most: 500 }

/** The linter sends no usage data and does not check for a newer version. */
const LINT_OFFLINE = { REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' }

const CHECKS: Record<string, () => Promise<string[]>> = {
  types: () => tool('tsc', ['--noEmit', '-p', '.']),
  style: () => tool('biome', ['check', '--error-on-warnings', '.']),
  contract: () => tool('redocly', ['lint', 'openapi.json', '--format=stylish', '--max-problems=50'], LINT_OFFLINE),
  unused: () => tool('knip', ['--no-progress']),
  words: async () => checkFiles(root),
  dependencies: () => dependencyFaults(root, (line) => process.stdout.write(`note ${line}\n`)),
  sizes: async () => sizeFaults(sourceFiles()),
  generated: async () => {
    const stale = (await generateAll()).filter(({ path, text }) => readOrNull(path) !== text)
    return stale.length === 0
      ? []
      : [`${stale.map(({ path }) => path).join(', ')}: not fresh; run \`npm run generate\``]
  },
}

const results = await Promise.all(
  Object.entries(CHECKS).map(async ([name, check]) => {
    const begin = performance.now()
    const faults = await check().catch((error: Error) => [error.stack ?? error.message])
    const seconds = ((performance.now() - begin) / 1000).toFixed(1)
    process.stdout.write(`${faults.length === 0 ? 'ok  ' : 'FAIL'} ${name} (${seconds} s)\n`)
    for (const fault of faults) process.stdout.write(`${fault.trimEnd()}\n`)
    return faults.length
  }),
)
process.exitCode = results.some((faults) => faults > 0) ? 1 : 0

function tool(name: string, args: string[], env: Record<string, string> = {}): Promise<string[]> {
  return new Promise((resolve) => {
    const child = spawn(join(bin, name), args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const output: Buffer[] = []
    child.stdout.on('data', (chunk) => output.push(chunk))
    child.stderr.on('data', (chunk) => output.push(chunk))
    child.on('error', (error) => resolve([error.message]))
    child.on('close', (code) => resolve(code === 0 ? [] : [Buffer.concat(output).toString()]))
  })
}

function sourceFiles(): { path: string; lines: number }[] {
  return globSync('{server,scripts,images,bench}/**/*.{ts,mjs,sh}', { cwd: root, exclude: ['**/node_modules/**'] })
    .filter((path) => !path.includes('.test.'))
    .map((path) => ({ path, lines: readFileSync(join(root, path), 'utf8').split('\n').length - 1 }))
    .sort((a, b) => a.lines - b.lines)
}

function sizeFaults(files: { path: string; lines: number }[]): string[] {
  const at = (share: number) => files[Math.min(files.length - 1, Math.floor(files.length * share))]!
  const median = at(0.5)
  const p90 = at(0.9)
  return [
    ...files
      .filter((file) => file.lines > SIZES.most)
      .map(({ path, lines }) => `${path} has ${lines} lines (at most ${SIZES.most})`),
    ...(median.lines > SIZES.median ? [`the median file has ${median.lines} lines (at most ${SIZES.median})`] : []),
    ...(p90.lines > SIZES.p90 ? [`one file in ten has ${p90.lines} lines or more (at most ${SIZES.p90})`] : []),
  ]
}

function readOrNull(path: string): string | null {
  const file = join(root, path)
  return existsSync(file) ? readFileSync(file, 'utf8') : null
}
