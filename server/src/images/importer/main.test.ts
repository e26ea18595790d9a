/** Tests of the importer as a process that may be killed at any time. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { until } from '../../testing/until.ts'
import { readStatus } from './job-files.ts'
import {
  at,
  bootableDisk,
  jobFolder,
  sha256,
  shadowTool,
  startImporter,
  startMirror,
  temporaryFolder,
  urlJob,
} from './testing.ts'

const folder = temporaryFolder()
const mirror = await startMirror()
const disk = bootableDisk(8 << 20)
mirror.files.set('/disk.img', disk)
const etag = `"${sha256(disk).slice(0, 16)}"`
const newJob = () => jobFolder(folder, urlJob(`${mirror.url}/disk.img`, sha256(disk)))

/** Sends the first half of the requested range, then hangs. */
function serveHalf(): void {
  mirror.intercept = (request, response) => {
    const from = Number(/\d+/.exec(request.headers.range ?? '0')![0])
    const range = { 'content-range': `bytes ${from}-${disk.length - 1}/${disk.length}` }
    response.writeHead(from === 0 ? 200 : 206, { etag, 'content-length': disk.length - from, ...(from > 0 && range) })
    response.write(disk.subarray(from, from + (disk.length - from) / 2))
    return true
  }
}

test('resumes a download after each kill', async () => {
  const job = newJob()
  mirror.requests.length = 0
  serveHalf()
  const offsets: number[] = []
  for (const part of [4 << 20, 6 << 20]) {
    const run = startImporter(job)
    await until(`${part} bytes`, () => readStatus(job)?.done_bytes === part && readStatus(job)?.pid === run.pid)
    run.child.kill('SIGKILL')
    assert.equal((await run.ended).signal, 'SIGKILL')
    offsets.push(part)
    assert.deepEqual([readStatus(job)!.state, readStatus(job)!.phase], ['running', 'downloading'])
  }
  mirror.intercept = () => false
  const { code, log } = await startImporter(job).ended
  assert.equal(code, 0)
  assert.equal(readStatus(job)!.state, 'done', log)
  assert.deepEqual(
    mirror.requests.map(({ range, if_range }) => [range, if_range]),
    [[undefined, undefined], ...offsets.map((part) => [`bytes=${part}-`, etag])],
  )
  for (const line of log.trim().split('\n')) assert.equal(typeof JSON.parse(line).msg, 'string')
  assert.deepEqual(readdirSync(job).sort(), ['grant.json', 'job.json', 'output', 'status.json'])
  assert.deepEqual(readdirSync(at(job).output).sort(), ['disk.qcow2', 'manifest.json'])

  // After a complete import, another start has no effect.
  const requests = mirror.requests.length
  assert.deepEqual(await startImporter(job).ended, { code: 0, signal: null, log: '' })
  assert.equal(mirror.requests.length, requests)
})

test('kills the converter after a kill and converts again without a download', async () => {
  const real = execFileSync('which', ['qemu-img'], { encoding: 'utf8' }).trim()
  // Hangs in place of a long conversion. It cannot write files, so it is found by its command line.
  const hang = `sleep 1001.${process.pid}`
  const hanging = shadowTool('qemu-img', `#!/bin/sh\n[ "$1" = convert ] && exec ${hang}\nexec ${real} "$@"\n`)
  const job = newJob()
  const first = startImporter(job, hanging)
  const sleeping = () => execFileSync('sh', ['-c', `pgrep -fx '${hang}' || true`], { encoding: 'utf8' }).trim()
  await until('the conversion', () => readStatus(job)?.phase === 'converting' && sleeping() !== '')
  first.child.kill('SIGKILL')
  await first.ended
  await until('the end of the converter', () => sleeping() === '')
  assert.ok(existsSync(at(job).source))
  const requests = mirror.requests.length
  const { code, log } = await startImporter(job).ended
  assert.equal(code, 0)
  assert.equal(readStatus(job)!.state, 'done', log)
  assert.equal(mirror.requests.length, requests)
})

test('a second importer of the same job exits', async () => {
  const job = newJob()
  serveHalf()
  const first = startImporter(job)
  await until('the first half', () => readStatus(job)?.done_bytes === 4 << 20)
  const second = await startImporter(job).ended
  assert.equal(second.code, 0)
  assert.equal(readStatus(job)!.pid, first.pid)
  first.child.kill('SIGTERM')
  assert.equal((await first.ended).code, 143)
  assert.equal(readStatus(job)!.state, 'running')
  mirror.intercept = () => false
})

test('a failed import exits with 0 and is retried at the next start', async () => {
  const job = newJob()
  mirror.files.delete('/disk.img')
  const { code, log } = await startImporter(job).ended
  assert.deepEqual([code, readStatus(job)!.state], [0, 'failed'])
  assert.match(log, /"code":"image_source_not_found"/)
  mirror.files.set('/disk.img', disk)
  assert.equal((await startImporter(job).ended).code, 0)
  assert.equal(readStatus(job)!.state, 'done')
})

test('exits with 1 without a job and fails with an invalid one', async () => {
  assert.equal((await startImporter(join(folder, 'nowhere')).ended).code, 1)
  const job = newJob()
  writeFileSync(at(job).job, '{"kind":"url"}')
  assert.equal((await startImporter(job).ended).code, 0)
  assert.equal(readStatus(job)!.error?.code, 'image_import_failed')
  assert.ok(!readFileSync(at(job).status, 'utf8').includes(folder))
})
