/** Tests of the small parts: jobs, status, texts, names, lists, signatures, retries. */
import assert from 'node:assert/strict'
import { readdirSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import type { Clock } from '../../lib/clock.ts'
import { dearmor } from './armor.ts'
import { asImportError, ImportError } from './errors.ts'
import { parseJob } from './job.ts'
import { readJob, readStatus } from './job-files.ts'
import { createReporter } from './reporter.ts'
import { type Watch, withRetries } from './retry.ts'
import { signatureProblem } from './signature.ts'
import { sourceName } from './source.ts'
import { checksumOf } from './sums.ts'
import { at, jobFolder, temporaryFolder, urlJob } from './testing.ts'
import { plain, size } from './text.ts'

const folder = temporaryFolder()

/** A clock that advances only during `sleep`. */
function virtualClock() {
  let now = 0
  const timers = new Set<{ at: number; callback: () => void }>()
  const clock: Clock = {
    now: () => new Date(now),
    monotonic: () => now,
    sleep: async (ms) => advance(ms),
    after: (ms, callback) => {
      const timer = { at: now + ms, callback }
      timers.add(timer)
      return { cancel: () => timers.delete(timer) }
    },
  }
  const advance = (ms: number) => {
    now += ms
    for (const timer of [...timers]) {
      if (timer.at > now || !timers.delete(timer)) continue
      timer.callback()
    }
  }
  return { clock, advance, time: () => now }
}

test('validates a job when it is written and read', () => {
  const job = urlJob('https://example.org/x.img', 'a'.repeat(64))
  const path = jobFolder(folder, job)
  assert.deepEqual(readJob(path), job)
  const wrong: unknown[] = [
    null,
    1,
    {},
    { kind: 'x' },
    { kind: 'toString' },
    { ...job, sha256: 'x' },
    { ...job, extra: 1 },
    { ...job, allowed_addresses: ['localhost'] },
    { ...job, max_bytes: 0 },
    { ...job, ssh_user: '-x' },
    { kind: 'upload', path: 'relative' },
    { kind: 'recipe', script: '../x' },
    { ...job, kind: 'publisher', file_name: '../x' },
  ]
  for (const value of wrong) assert.throws(() => parseJob(value), TypeError, JSON.stringify(value))
})

test('an invalid status is null', () => {
  const path = jobFolder(folder, urlJob('https://example.org/x', 'a'.repeat(64)))
  assert.equal(readStatus(path), null)
  for (const text of ['', '{', '{}', '{"state":"done"}']) {
    writeFileSync(at(path).status, text)
    assert.equal(readStatus(path), null)
  }
})

test('writes the status at each phase, and otherwise at most four times per second including the last value', () => {
  const { clock, advance } = virtualClock()
  const path = jobFolder(folder, urlJob('https://example.org/x', 'a'.repeat(64)))
  const lines: string[] = []
  const reporter = createReporter(path, (line) => lines.push(line), clock)
  reporter.phase('downloading', 'downloading x')
  assert.equal(readStatus(path)!.message, 'downloading x')
  let writes = 0
  let before = readStatus(path)!.updated_at
  for (let bytes = 1; bytes <= 1000; bytes++) {
    advance(1)
    reporter.bytes(bytes, 2000)
    if (readStatus(path)!.updated_at !== before) writes++
    before = readStatus(path)!.updated_at
  }
  assert.equal(writes, 4)
  reporter.bytes(1001, 2000)
  advance(250)
  assert.deepEqual([readStatus(path)!.done_bytes, readStatus(path)!.progress], [1001, 1001 / 2000])
  reporter.failed(new ImportError('image_unsafe', 'public', 'detail'))
  assert.deepEqual(readStatus(path)!.error, { code: 'image_unsafe', message: 'public' })
  assert.deepEqual(
    lines.map((line) => JSON.parse(line).phase ?? JSON.parse(line).code),
    ['downloading', 'image_unsafe'],
  )
  assert.deepEqual(readdirSync(path).sort(), ['grant.json', 'job.json', 'status.json'])
})

const source = { host: 'example.org', file: 'x.img' }

test('retries with a backoff of 0.5 to 8 s until the stall timeout', async () => {
  const { clock, time } = virtualClock()
  const attempts: number[] = []
  const refused = Object.assign(new Error('x'), { code: 'ECONNREFUSED' })
  const attempt = async () => {
    attempts.push(time())
    throw refused
  }
  const work = withRetries(source, 60_000, attempt, clock)
  await assert.rejects(work, { code: 'image_source_unreachable', message: /connection refused/ })
  assert.deepEqual(attempts, [0, 500, 1500, 3500, 7500, 15500, 23500, 31500, 39500, 47500, 55500])
})

test('progress resets the timeout and the backoff, but not the number of attempts', async () => {
  const { clock, time } = virtualClock()
  let attempts = 0
  const work = withRetries(
    source,
    60_000,
    async ({ progress }) => {
      attempts++
      await clock.sleep(50_000)
      progress()
      throw new Error('broken')
    },
    clock,
  )
  await assert.rejects(work, { code: 'image_source_unreachable' })
  assert.equal(attempts, 200)
  assert.equal(time(), 200 * 50_000 + 199 * 500)
})

test('a pause is neither silence of the source nor progress', async () => {
  const { clock, time } = virtualClock()
  const attempts: number[] = []
  const attempt = async ({ paused, signal }: Watch) => {
    attempts.push(time())
    if (attempts.length === 1) await paused(Promise.resolve().then(() => clock.sleep(100_000_000)))
    signal.throwIfAborted()
    throw new Error('broken')
  }
  await assert.rejects(withRetries(source, 60_000, attempt, clock), { code: 'image_source_unreachable' })
  const begin = 100_000_000
  assert.deepEqual(attempts.slice(0, 4), [0, begin + 500, begin + 1500, begin + 3500])
  assert.equal(attempts.length, 11, 'as many as without the pause')
})

test('a slow download fails after a day', async () => {
  const { clock, time } = virtualClock()
  const work = withRetries(
    source,
    60_000,
    async ({ progress, signal }) => {
      for (;;) {
        await clock.sleep(30_000)
        signal.throwIfAborted()
        progress()
      }
    },
    clock,
  )
  await assert.rejects(work, { code: 'image_source_stalled' })
  assert.ok(time() >= 86_400_000 && time() < 86_500_000)
})

test('the message of an unexpected error contains no internals', () => {
  assert.match(
    asImportError(Object.assign(new Error('/secret'), { code: 'ENOSPC' })).message,
    /disk of this host is full/,
  )
  const error = asImportError(new Error('/secret/path'))
  assert.ok(!error.message.includes('/secret'))
  assert.match(error.detail!, /\/secret\/path/)
})

test('the name of a source has no query, user information or control characters', () => {
  assert.deepEqual(sourceName('https://u:p@example.org:8443/a/b.img?t=x#f'), {
    host: 'example.org:8443',
    file: 'b.img',
  })
  assert.deepEqual(sourceName('https://example.org'), { host: 'example.org', file: 'the file' })
  assert.deepEqual(sourceName('https://example.org/%zz'), { host: 'example.org', file: '%zz' })
  assert.deepEqual(sourceName('x'), { host: 'The given URL', file: 'image' })
  assert.equal(plain('a\u001b]0;x\u0007\u202eb\r\n\0c', 100), 'a0;x b c')
  assert.deepEqual([size(0), size(1023), size(1536), size(2 ** 40)], ['0 bytes', '1023 bytes', '1.5 KiB', '1.0 TiB'])
})

test('finds the checksum of a file in a list', () => {
  const [a, b] = ['A'.repeat(64), 'b'.repeat(64)]
  const list = `${a}  x.img\r\n${b} *y.img\nnonsense\n${b}  dir/x.img\n${a.toLowerCase()} *x.img\n${b} z.img\n`
  assert.equal(checksumOf(list, 'x.img', 'h'), 'a'.repeat(64))
  assert.equal(checksumOf(list, 'y.img', 'h'), b)
  for (const name of ['z.img', '', 'img', 'constructor']) assert.throws(() => checksumOf(list, name, 'h'), ImportError)
})

test('rejects a signature with a bad keyword, and a modified list with another good signature', () => {
  const [key, primary] = ['A'.repeat(40), 'B'.repeat(40)]
  const signature = (word: string, fingerprint = key, hash = 10) =>
    `[GNUPG:] NEWSIG\n[GNUPG:] ${word} X name\n[GNUPG:] VALIDSIG ${fingerprint} 2026-01-01 1 0 4 0 22 ${hash} 00 ${primary}\n`
  assert.equal(signatureProblem(signature('GOODSIG'), [key]), null)
  assert.equal(signatureProblem(signature('GOODSIG'), [primary]), null)
  assert.equal(signatureProblem(`${signature('ERRSIG', primary)}${signature('GOODSIG')}`, [key]), null)
  for (const word of ['EXPSIG', 'EXPKEYSIG', 'REVKEYSIG', 'BADSIG', 'ERRSIG', 'NODATA', 'OTHER']) {
    assert.notEqual(signatureProblem(signature(word), [key, primary]), null, word)
    assert.notEqual(
      signatureProblem(`${signature('GOODSIG')}[GNUPG:] ${word} X\n`.replace('OTHER', 'BADSIG'), [key]),
      null,
    )
  }
  assert.notEqual(signatureProblem(`${signature('GOODSIG')}${signature('BADSIG')}`, [key]), null)
  assert.notEqual(signatureProblem(signature('GOODSIG'), ['C'.repeat(40)]), null)
  assert.notEqual(signatureProblem(signature('GOODSIG', key, 2), [key]), null, 'SHA-1')
  assert.notEqual(signatureProblem('', [key]), null)
  // A name is data of the signer and is not parsed as a status line.
  assert.notEqual(signatureProblem(`[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG X [GNUPG:] GOODSIG\n`, [key]), null)
})

test('decodes armor with and without headers and checksum', () => {
  const block = (head: string, tail: string) =>
    Buffer.from(
      `-----BEGIN PGP PUBLIC KEY BLOCK-----\n${head}\naGVs\nbG8=\n${tail}-----END PGP PUBLIC KEY BLOCK-----\n`,
    )
  assert.equal(dearmor(block('', '=abcd\n')).toString(), 'hello')
  assert.equal(dearmor(block('Comment: x\r\n', '')).toString(), 'hello')
  assert.equal(dearmor(Buffer.concat([block('', ''), block('', '')])).toString(), 'hellohello')
  assert.deepEqual(dearmor(Buffer.from([0x99, 1])), Buffer.from([0x99, 1]))
})
