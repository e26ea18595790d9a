/**
 * deploy/Containerfile: its steps are run on this host, in a copy of the repository, because a container engine is rarely at
 * hand. The entry point starts the control plane, the health check finds it ready, and the stop signal ends it in order.
 */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { freePort } from '../server/src/testing/free-port.ts'
import { until } from '../server/src/testing/until.ts'
import { run } from './control-plane.ts'

const ROOT = join(import.meta.dirname, '..')
const folder = mkdtempSync(join(tmpdir(), 'cn-container-'))
const workdir = join(folder, 'opt')
const data = join(folder, 'data')
after(() => rmSync(folder, { recursive: true, force: true }))

type Instruction = { name: string; text: string }

/** The instructions of the file, in order. */
const instructions: Instruction[] = readFileSync(join(ROOT, 'deploy/Containerfile'), 'utf8')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => ({ name: line.split(' ')[0]!, text: line.slice(line.indexOf(' ') + 1) }))
const textOf = (name: string): string => {
  const found = instructions.filter((each) => each.name === name)
  assert.equal(found.length, 1, name)
  return found[0]!.text
}
/** The words of an instruction in the JSON form, after its options. */
const wordsOf = (name: string): string[] => JSON.parse(/\[.*\]$/.exec(textOf(name))![0])

before(async () => {
  // COPY, without what .dockerignore excludes; the installed dependencies save their download.
  const files = await run('git', ['ls-files', '-co', '--exclude-standard', '-z'], { cwd: ROOT })
  const copy = 'mkdir -p "$1" && tar -c --null -T - | tar -x -C "$1" && cp -al node_modules "$1/"'
  const { status, stderr } = spawnSync('sh', ['-c', copy, 'sh', workdir], { cwd: ROOT, input: files, encoding: 'utf8' })
  assert.equal(status, 0, stderr)
})

test('has the usual instructions, each of a known kind', () => {
  const known = ['FROM', 'WORKDIR', 'COPY', 'RUN', 'ENV', 'VOLUME', 'EXPOSE', 'STOPSIGNAL', 'HEALTHCHECK', 'ENTRYPOINT']
  assert.deepEqual(
    instructions.map(({ name }) => name),
    known,
  )
  assert.match(textOf('FROM'), /^node:\d+-bookworm-slim$/)
  assert.match(textOf('ENV'), new RegExp(`^CLOUDNEXUS_DATA_DIR=${textOf('VOLUME')}/`))
  for (const line of ['node_modules/', 'data/', '.git/'])
    assert.ok(readFileSync(join(ROOT, '.dockerignore'), 'utf8').split('\n').includes(line), line)
})

test('its steps build and start the control plane, and its signal stops it', { timeout: 300_000 }, async () => {
  const built = spawnSync('sh', ['-c', textOf('RUN')], { cwd: workdir, encoding: 'utf8' })
  assert.equal(built.status, 0, `${built.stdout}${built.stderr}`)

  const env = {
    ...process.env,
    CLOUDNEXUS_DATA_DIR: data,
    CLOUDNEXUS_PORT: `${await freePort()}`,
    CLOUDNEXUS_ACCEL: 'tcg',
  }
  const log = openSync(join(folder, 'log'), 'a')
  const [program, ...args] = wordsOf('ENTRYPOINT')
  const child = spawn(join(workdir, program!), args, { cwd: workdir, env, stdio: ['ignore', log, log], detached: true })
  try {
    const [check, ...more] = wordsOf('HEALTHCHECK')
    const isHealthy = () => spawnSync(check!, more, { cwd: workdir, env, stdio: 'ignore' }).status === 0
    await until(
      'the health check succeeds',
      () => {
        assert.equal(child.exitCode, null, readFileSync(join(folder, 'log'), 'utf8').slice(-2_000))
        return isHealthy()
      },
      200,
    )
    assert.ok(existsSync(join(data, 'credentials.json')))
    const ended = once(child, 'exit')
    process.kill(child.pid!, textOf('STOPSIGNAL') as NodeJS.Signals)
    assert.deepEqual(await ended, [0, null])
    assert.equal(isHealthy(), false)
  } finally {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
    await run(process.execPath, [join(workdir, 'server/src/teardown.ts'), '--data-dir', data, '--yes'])
  }
})
