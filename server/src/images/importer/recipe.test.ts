import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { until } from '../../testing/until.ts'
import type { RecipeJob } from './job.ts'
import { at, importNow, jobFolder, startImporter, temporaryFolder } from './testing.ts'

const folder = temporaryFolder()
let count = 0

function recipe(script: string, more: Partial<RecipeJob> = {}): string {
  const path = join(folder, `build-${++count}.sh`)
  writeFileSync(path, `#!/bin/bash\nset -e\nout=$1\n${script}\n`, { mode: 0o755 })
  return jobFolder(folder, { kind: 'recipe', script: path, ...more })
}
const manifest = {
  format: 'qcow2',
  virtual_size_bytes: 1 << 20,
  boot: { kernel: 'kernel', initrd: 'initrd', append: 'quiet' },
  seed: 'fw_cfg',
  ready_signal: 'guest',
  ssh_user: 'root',
  source: 'linux 6.1',
}
const complete = `cd "$out"; touch disk.qcow2 kernel initrd; echo '${JSON.stringify(manifest)}' > manifest.json`

async function fails(script: string, message: RegExp, more: Partial<RecipeJob> = {}) {
  const job = recipe(script, more)
  const { status, log } = await importNow(job)
  assert.deepEqual([status.state, status.error?.code], ['failed', 'image_build_failed'], log)
  assert.match(status.error!.message, message)
  assert.ok(!existsSync(at(job).output))
  return log
}
const hasExited = (pid: string) =>
  !existsSync(`/proc/${pid}`) || /^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))

test('a build with complete output succeeds', async () => {
  const job = recipe(`echo 'progress 0.5 half'; echo 'progress x'; echo noise >&2; ${complete}`)
  const { status } = await importNow(job)
  assert.deepEqual([status.state, status.phase, status.progress, status.error], ['done', 'building', 1, null])
  assert.deepEqual(JSON.parse(readFileSync(at(job).manifest, 'utf8')), manifest)
})

test('progress lines update the status', async () => {
  const job = recipe(`echo 'progress 0.35 unpacking the packages'; read -r < ${join(folder, 'gate')}; ${complete}`)
  const { execFileSync } = await import('node:child_process')
  execFileSync('mkfifo', [join(folder, 'gate')])
  const work = importNow(job)
  const { readStatus } = await import('./job-files.ts')
  await until('the progress line', () => readStatus(job)?.progress === 0.35)
  assert.equal(readStatus(job)!.message, 'unpacking the packages')
  writeFileSync(join(folder, 'gate'), 'go\n')
  assert.equal((await work).status.state, 'done')
})

test('the last error line of a failed build is the reason, as plain text', async () => {
  const log = await fails(
    `echo first >&2; printf '\\033[31mno \\tkernel\\033[0m in the sources\\n\\n' >&2; exit 3`,
    /: no kernel in the sources$/,
  )
  assert.match(log, /first/)
  await fails('exit 3', /its script exited with code 3$/)
  await fails('ls "$out/kernel"', /: ls: cannot access 'output\/kernel': No such file or directory$/)
  await fails('no-such-command', /: build-\d+\.sh: line 4: no-such-command: command not found$/)
  await fails('kill -9 $$', /its script was killed by a signal$/)
  await fails(`head -c 5000 /dev/zero | tr '\\0' x >&2; exit 1`, /: x{299}…$/)
})

test('incomplete output is a failure', async () => {
  await fails('true', /incomplete/)
  await fails(`${complete}; rm kernel`, /incomplete/)
  await fails(`${complete}; echo '{}' > manifest.json`, /incomplete/)
  await fails(`${complete}; sed -i 's#"kernel"#"../../x"#2' manifest.json`, /incomplete/)
})

test('a script that cannot be started is a failure', async () => {
  const job = jobFolder(folder, { kind: 'recipe', script: join(folder, 'no-such-script') })
  assert.equal((await importNow(job)).status.error?.code, 'image_build_failed')
})

test('kills a silent build with all its processes', async () => {
  const pids = join(folder, 'pids')
  const started = `sleep 1000 & echo $! > ${pids}; setsid sleep 1000 & echo $! >> ${pids}; echo $$ >> ${pids}; wait`
  await fails(started, /its script wrote no output for 2 s/, { silence_timeout_seconds: 2 })
  const [first, second, third] = readFileSync(pids, 'utf8').trim().split('\n')
  for (const pid of [first!, second!, third!]) await until(`the end of ${pid}`, () => hasExited(pid))
})

test('the next importer kills the build of a killed one and builds again', async () => {
  const [pids, again] = [join(folder, 'pids-of-first'), join(folder, 'again')]
  const job = recipe(
    `[[ -e ${again} ]] || { touch "$out/stale" ${again}; setsid sleep 1000 & echo $! > ${pids}; wait; }; grep -qs '^State:.[^Z]' /proc/$(<${pids})/status && exit 9; ${complete}`,
  )
  const first = startImporter(job)
  await until('the first build', () => existsSync(pids) && readFileSync(pids, 'utf8').endsWith('\n'))
  first.child.kill('SIGKILL')
  await first.ended
  const pid = readFileSync(pids, 'utf8').trim()
  assert.ok(!hasExited(pid), 'nothing has killed it yet')
  const second = startImporter(job)
  assert.equal((await second.ended).code, 0)
  assert.ok(hasExited(pid))
  assert.ok(existsSync(at(job).manifest) && !existsSync(join(at(job).output, 'stale')))
})
