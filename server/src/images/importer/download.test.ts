/** Complete imports that download from a server on loopback. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { beforeEach, test } from 'node:test'
import type { UrlJob } from './job.ts'
import { at, bootableDisk, importNow, jobFolder, sha256, startMirror, temporaryFolder, urlJob } from './testing.ts'

const folder = temporaryFolder()
const mirror = await startMirror()
const disk = bootableDisk(3 << 20)
const sum = sha256(disk)

beforeEach(() => {
  mirror.files.clear()
  mirror.files.set('/images/disk.img', disk)
  mirror.requests.length = 0
  mirror.ranges = true
  mirror.intercept = () => false
})

async function importUrl(more: Partial<UrlJob> = {}) {
  const job = jobFolder(folder, urlJob(`${mirror.url}/images/disk.img?token=hunter2`, sum, more))
  const outcome = await importNow(job)
  assert.ok(!outcome.log.includes('hunter2') && !JSON.stringify(outcome.status).includes('hunter2'), 'the query leaked')
  assert.ok(!outcome.status.error?.message.includes(folder), 'the message contains a path')
  return { ...outcome, paths: at(job), job }
}

/** Long enough for a busy machine, short enough for a test. */
const shortTimeout = { stall_timeout_seconds: 2 }

async function failsWith(code: string, message: RegExp, more: Partial<UrlJob> = {}) {
  const outcome = await importUrl(more)
  assert.deepEqual([outcome.status.state, outcome.status.error?.code], ['failed', code], outcome.log)
  assert.match(outcome.status.error!.message, message)
  assert.ok(!existsSync(outcome.paths.output))
  return outcome
}

test('downloads, verifies and converts a file', async () => {
  const { status, paths, log } = await importUrl()
  assert.equal(status.state, 'done', log)
  assert.deepEqual([status.done_bytes, status.total_bytes, status.error], [disk.length, disk.length, null])
  assert.equal(JSON.parse(readFileSync(paths.manifest, 'utf8')).virtual_size_bytes, disk.length)
  for (const path of [paths.part, paths.meta, paths.source]) assert.ok(!existsSync(path), path)
  const phases = log
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line).phase)
  assert.deepEqual(phases.filter(Boolean), ['downloading', 'verifying', 'converting'])
})

test('follows a redirect and rejects one to an address that is not allowed', async () => {
  let location = '/moved'
  mirror.files.set('/moved', disk)
  mirror.intercept = (request, response) => {
    if (request.url === '/moved') return false
    response.writeHead(302, { location }).end()
    return true
  }
  assert.equal((await importUrl()).status.state, 'done')
  location = 'http://169.254.169.254/latest/meta-data/'
  await failsWith('image_destination_not_allowed', /^127\.0\.0\.1:\d+: destination not allowed/)
})

test('rejects all disallowed URLs with the same message and without a request', async () => {
  const code = 'image_destination_not_allowed'
  await failsWith(code, /destination not allowed/, { allowed_addresses: [] })
  for (const url of [
    'http://u:hunter3@example.org/x',
    'ftp://example.org/x',
    'http://example.org:22/',
    'x',
    'http://0/',
  ]) {
    const { status, log } = await failsWith(code, /destination not allowed/, { url })
    assert.ok(!`${JSON.stringify(status)}${log}`.includes('hunter3'))
  }
  assert.equal(mirror.requests.length, 0)
})

test('resumes after a closed connection with Range and If-Range', async () => {
  let breaks = 2
  mirror.intercept = (request, response) => {
    if (breaks-- <= 0) return false
    const from = Number(/\d+/.exec(request.headers.range ?? '0')![0])
    const etag = `"${sum.slice(0, 16)}"`
    const range = { 'content-range': `bytes ${from}-${disk.length - 1}/${disk.length}` }
    response.writeHead(from === 0 ? 200 : 206, { etag, 'content-length': disk.length - from, ...(from > 0 && range) })
    response.write(disk.subarray(from, from + (1 << 20)), () => response.destroy())
    return true
  }
  const { status, log } = await importUrl()
  assert.equal(status.state, 'done', log)
  const [first, second, third] = mirror.requests
  assert.equal(first!.range, undefined)
  assert.match(second!.range!, /^bytes=\d+-$/)
  assert.equal(second!.if_range, `"${sum.slice(0, 16)}"`)
  assert.ok(Number(third!.range!.match(/\d+/)![0]) > Number(second!.range!.match(/\d+/)![0]))
  assert.equal(third!.status, 206)
})

test('resumes a partial download only while the file is unchanged', async () => {
  const partialJob = (etag: string, bytes: Buffer) => {
    const job = jobFolder(folder, urlJob(`${mirror.url}/images/disk.img`, sum))
    writeFileSync(at(job).part, bytes)
    writeFileSync(at(job).meta, JSON.stringify({ etag, last_modified: null, length: disk.length }))
    return job
  }
  const etag = `"${sum.slice(0, 16)}"`
  const cases: [etag: string, bytes: Buffer, range: string | undefined, status: number][] = [
    [etag, disk.subarray(0, 1 << 20), `bytes=${1 << 20}-`, 206],
    ['"another"', disk.subarray(0, 1 << 20), `bytes=${1 << 20}-`, 200],
    ['"another"', Buffer.alloc(1 << 20), `bytes=${1 << 20}-`, 200],
    [etag, Buffer.alloc(0), undefined, 200],
    [etag, Buffer.concat([disk, disk]), `bytes=${disk.length * 2}-`, 416],
  ]
  for (const [known, bytes, range, expected] of cases) {
    mirror.requests.length = 0
    const { status, log } = await importNow(partialJob(known, bytes))
    assert.equal(status.state, 'done', log)
    assert.deepEqual([mirror.requests[0]!.range, mirror.requests[0]!.status], [range, expected])
  }
  // A complete download needs no request.
  mirror.requests.length = 0
  assert.equal((await importNow(partialJob(etag, disk))).status.state, 'done')
  assert.equal(mirror.requests.length, 0)
  // The right validator with wrong bytes (a power failure): the file is downloaded again.
  const { status, log } = await importNow(partialJob(etag, Buffer.alloc(1 << 20)))
  assert.equal(status.state, 'done', log)
  assert.deepEqual(
    mirror.requests.map((request) => request.status),
    [206, 200],
  )
})

test('restarts an interrupted download without validators', async () => {
  mirror.ranges = false
  let breaks = 1
  mirror.intercept = (_request, response) => {
    if (breaks-- <= 0) return false
    response.writeHead(200, { 'content-length': disk.length })
    response.write(disk.subarray(0, 1 << 20), () => response.destroy())
    return true
  }
  assert.equal((await importUrl()).status.state, 'done')
  assert.deepEqual(
    mirror.requests.map((request) => request.range),
    [undefined, undefined],
  )
})

test('accepts a response without a length', async () => {
  mirror.intercept = (_request, response) => {
    response.writeHead(200)
    response.write(disk.subarray(0, 1 << 20))
    response.end(disk.subarray(1 << 20))
    return true
  }
  const { status } = await importUrl()
  assert.deepEqual([status.state, status.done_bytes, status.total_bytes], ['done', disk.length, null])
})

test('a wrong checksum removes the file and names both checksums', async () => {
  const wrong = '0'.repeat(64)
  const { paths } = await failsWith('image_checksum_mismatch', new RegExp(`${sum}, not ${wrong}`), { sha256: wrong })
  for (const path of [paths.part, paths.meta, paths.source]) assert.ok(!existsSync(path), path)
})

test('a file that is truncated at the source has a wrong checksum', async () => {
  mirror.files.set('/images/disk.img', disk.subarray(0, 1 << 20))
  await failsWith('image_checksum_mismatch', /The SHA-256 of disk\.img from 127\.0\.0\.1:\d+ is/)
})

test('fails when a server sends nothing more, and keeps the partial download', async () => {
  mirror.intercept = (request, response) => {
    const from = Number(/\d+/.exec(request.headers.range ?? '0')![0])
    response.writeHead(from === 0 ? 200 : 206, {
      etag: '"x"',
      'content-length': disk.length - from,
      'content-range': `bytes ${from}-${disk.length - 1}/${disk.length}`,
    })
    response.flushHeaders()
    if (from === 0) response.write(disk.subarray(0, 1 << 20))
    response.socket!.end()
    return true
  }
  const { paths } = await failsWith(
    'image_source_unreachable',
    /disk\.img could not be downloaded from 127/,
    shortTimeout,
  )
  const { length } = readFileSync(paths.part)
  assert.ok(length > 0)
  assert.ok(readFileSync(paths.part).equals(disk.subarray(0, length)))
})

test('fails immediately for 4xx, and retries 5xx', async () => {
  let status = 404
  mirror.intercept = (_request, response) => {
    response.writeHead(status).end()
    return true
  }
  await failsWith('image_source_not_found', /has no disk\.img \(it returned status 404\)/)
  status = 410
  await failsWith('image_source_not_found', /it returned status 410/)
  status = 403
  await failsWith('image_source_unreachable', /it returned status 403/)
  assert.equal(mirror.requests.length, 3, 'one request each')
  status = 503
  await failsWith('image_source_unreachable', /it returned status 503/, shortTimeout)
  assert.ok(mirror.requests.length > 4, 'more than one request')
})

test('succeeds after a temporary failure', async () => {
  let failures = 1
  mirror.intercept = (_request, response) => {
    if (failures-- <= 0) return false
    response.writeHead(503).end()
    return true
  }
  assert.equal((await importUrl()).status.state, 'done')
})

test('fails for a refused connection and for an unknown host name', async () => {
  const server = createServer()
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  await once(server.close(), 'close')
  await failsWith('image_source_unreachable', /connection refused/, {
    url: `http://127.0.0.1:${port}/disk.img`,
    ...shortTimeout,
  })
  const url = `http://${'x'.repeat(64)}.test/disk.img` // the label is too long for a DNS query
  await failsWith('image_source_unreachable', /x\.test: host name could not be resolved/, { url, ...shortTimeout })
})

test('fails when a source stalls before its headers or in its body', async () => {
  mirror.intercept = () => true
  await failsWith('image_source_stalled', /127\.0\.0\.1:\d+ sent no data of disk\.img for 0\.6 s/, {
    stall_timeout_seconds: 0.6,
  })
  mirror.intercept = (_request, response) => {
    response.writeHead(200, { 'content-length': disk.length })
    response.write(disk.subarray(0, 1 << 20))
    return true
  }
  const { status } = await failsWith('image_source_stalled', /disk\.img/, shortTimeout)
  assert.ok(status.done_bytes > 0)
  const silent = createServer(() => {})
  await once(silent.listen(0, '127.0.0.1'), 'listening')
  const { port } = silent.address() as AddressInfo
  try {
    await failsWith('image_source_stalled', /sent no data/, {
      url: `https://127.0.0.1:${port}/disk.img`,
      stall_timeout_seconds: 0.6,
    })
  } finally {
    silent.close()
  }
})

test('rejects a file that is too large, by its announced or its actual length', async () => {
  let sent = 0
  mirror.intercept = (_request, response) => {
    sent++
    response.writeHead(200, { 'content-length': 1e12 })
    response.flushHeaders()
    return true
  }
  const { paths } = await failsWith('image_too_large', /has 931 GiB and exceeds the limit of 64\.0 MiB/, {
    stall_timeout_seconds: 20,
  })
  assert.equal(sent, 1)
  assert.ok(!existsSync(paths.part))
  mirror.intercept = (_request, response) => {
    response.writeHead(200)
    response.end(disk)
    return true
  }
  const more = { max_bytes: 2 << 20 }
  assert.ok(!existsSync((await failsWith('image_too_large', /exceeds the limit of 2\.0 MiB/, more)).paths.part))
  const small = { max_virtual_size_bytes: 1 << 20 }
  await failsWith('image_too_large', /The disk in the image has 3\.0 MiB/, small)
})

test('messages contain names as plain text', async () => {
  const { status } = await importUrl({ url: `${mirror.url}/a/%1b%5b31m%0aevil%20name%e2%80%ae` })
  assert.match(status.error!.message, / has no evil name \(it returned status 404\)/)
})
