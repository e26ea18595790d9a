/** Imports from a publisher's mirror, with keys and signatures that gpg creates. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, beforeEach, test } from 'node:test'
import type { PublisherJob } from './job.ts'
import { urlIn } from './publisher.ts'
import { at, bootableDisk, importNow, jobFolder, limits, sha256, startMirror, temporaryFolder } from './testing.ts'

const folder = temporaryFolder()
const mirror = await startMirror()
const disk = bootableDisk()

const home = join(folder, 'gnupg')
mkdirSync(home, { mode: 0o700 })
const gpg = (...args: string[]) =>
  execFileSync('gpg', ['--homedir', home, '--batch', '--quiet', '--yes', '--passphrase', '', ...args], {
    stdio: 'pipe',
  })
after(() => execFileSync('gpgconf', ['--homedir', home, '--kill', 'all']))

/** Creates a key and returns its fingerprint. `time` sets the clock of gpg. */
function makeKey(name: string, expires: string, time: string[] = []): string {
  gpg(...time, '--quick-generate-key', `${name} <${name}@example.org>`, 'ed25519', 'sign', expires)
  const listing = gpg('--with-colons', '--list-keys', `${name}@example.org`).toString()
  return /^fpr:+([0-9A-F]{40}):/m.exec(listing)![1]!
}
const in2020 = ['--faked-system-time', '20200101T000000']
const owner = makeKey('owner', 'never')
const other = makeKey('other', 'never')
const ancient = makeKey('ancient', 'never', in2020)
const expired = makeKey('expired', '20200201T000000', in2020)
const revoked = makeKey('revoked', 'never')

function keyring(name: string, ...options: string[]): string {
  const path = join(folder, name)
  writeFileSync(path, gpg('--export', ...options))
  return path
}
const everyKey = keyring('every.gpg')
const armored = keyring('every.asc', '--armor')
const ownersKey = keyring('owner.gpg', owner)

function sign(list: string, keys: string[], ...options: string[]): Buffer {
  const path = join(folder, 'list')
  writeFileSync(path, list)
  const users = keys.flatMap((key) => ['--local-user', key])
  return gpg(...options, ...users, '--output', '-', '--detach-sign', path)
}

const list = `${'0'.repeat(64)}  disk.img.old\n${sha256(disk)} *disk.img\n${'1'.repeat(64)} *other/disk.img\n`

function publish(signature: Buffer | null, sums = list): void {
  mirror.files.set('/release/SHA256SUMS', Buffer.from(sums))
  if (signature === null) mirror.files.delete('/release/SHA256SUMS.gpg')
  else mirror.files.set('/release/SHA256SUMS.gpg', signature)
}

beforeEach(() => {
  mirror.files.set('/release/disk.img', disk)
  mirror.requests.length = 0
  mirror.intercept = () => false
})

const publisherJob = (more: Partial<PublisherJob> = {}): PublisherJob => ({
  kind: 'publisher',
  base_url: `${mirror.url}/release`,
  file_name: 'disk.img',
  keyring: everyKey,
  sums_name: 'SHA256SUMS',
  signature_name: 'SHA256SUMS.gpg',
  fingerprints: [owner],
  ...limits,
  ...more,
})
async function importPublished(more: Partial<PublisherJob> = {}) {
  const job = jobFolder(folder, publisherJob(more))
  return { ...(await importNow(job)), paths: at(job) }
}
async function rejected(code: string, message: RegExp, more: Partial<PublisherJob> = {}) {
  const { status, log, paths } = await importPublished(more)
  assert.deepEqual([status.state, status.error?.code], ['failed', code], log)
  assert.match(status.error!.message, message)
  assert.ok(!existsSync(paths.publisher))
  const downloads = mirror.requests.filter((request) => request.path.endsWith('.img'))
  assert.equal(downloads.length, 0, 'the image was downloaded')
}
const invalid = (message: RegExp, more: Partial<PublisherJob> = {}) =>
  rejected('image_signature_invalid', message, more)

test('accepts a good signature of an allowed key in all formats', async () => {
  publish(sign(list, [owner]))
  const { status, log, paths } = await importPublished()
  assert.equal(status.state, 'done', log)
  assert.equal(JSON.parse(readFileSync(paths.manifest, 'utf8')).virtual_size_bytes, disk.length)
  const more: [Buffer, Partial<PublisherJob>][] = [
    [sign(list, [owner], '--armor'), { keyring: armored, fingerprints: [owner.toLowerCase()] }],
    [sign(list, [other, owner]), { keyring: ownersKey, base_url: `${mirror.url}/release/` }],
  ]
  for (const [signature, options] of more) {
    publish(signature)
    const { status, log } = await importPublished(options)
    assert.equal(status.state, 'done', log)
  }
})

test('accepts only pinned keys of a keyring from a URL, and reports a missing keyring', async () => {
  publish(sign(list, [owner]))
  mirror.files.set('/keys', readFileSync(armored))
  assert.equal((await importPublished({ keyring: `${mirror.url}/keys` })).status.state, 'done')
  mirror.requests.length = 0
  mirror.files.set('/keys', readFileSync(everyKey))
  publish(sign(list, [other]))
  await invalid(/a key that is not allowed/, { keyring: `${mirror.url}/keys` })
  await invalid(/keyring .* is not on this host/, { keyring: join(folder, 'no-such.gpg') })
})

test('rejects a list that was modified after it was signed', async () => {
  publish(sign(list, [owner]), list.replace('0000', '0001'))
  await invalid(/SHA256SUMS of 127\.0\.0\.1:\d+ cannot be trusted: the signature does not match the list/)
})

test('rejects a good signature of another key of the keyring', async () => {
  publish(sign(list, [other]))
  await invalid(/signed by a key that is not allowed/)
})

test('rejects a key that is not in the keyring', async () => {
  publish(sign(list, [other]))
  await invalid(/not in the keyring/, { keyring: ownersKey, fingerprints: [other] })
})

test('rejects an expired key and an expired signature', async () => {
  publish(sign(list, [expired], ...in2020))
  await invalid(/has expired/, { fingerprints: [expired] })
  publish(sign(list, [ancient], ...in2020, '--default-sig-expire', '1d'))
  await invalid(/has expired/, { fingerprints: [ancient] })
  publish(sign(list, [ancient], ...in2020))
  assert.equal((await importPublished({ fingerprints: [ancient] })).status.state, 'done')
})

test('rejects a revoked key', async () => {
  const signature = sign(list, [revoked])
  const certificate = readFileSync(join(home, 'openpgp-revocs.d', `${revoked}.rev`), 'utf8')
  const path = join(folder, 'revocation')
  writeFileSync(path, certificate.replace(':-----BEGIN', '-----BEGIN'))
  gpg('--import', path)
  publish(signature)
  await invalid(/was revoked/, { fingerprints: [revoked], keyring: keyring('revoked.gpg') })
})

test('rejects a SHA-1 signature', async () => {
  publish(sign(list, [owner], '--digest-algo', 'SHA1'))
  await invalid(/too weak/)
})

test('rejects a missing and an unreadable signature', async () => {
  publish(null)
  await invalid(/it has no signature/)
  publish(Buffer.from('<html>welcome to the hotel</html>'))
  await invalid(/its signature cannot be read/)
})

test('rejects a file that the list does not contain, or contains twice', async () => {
  publish(sign(list, [owner]))
  await rejected('image_source_not_found', /does not contain disk\.raw/, { file_name: 'disk.raw' })
  const twice = `${list}${'2'.repeat(64)}  disk.img\n`
  publish(sign(twice, [owner]), twice)
  await rejected('image_checksum_mismatch', /two checksums/)
})

test('rejects a missing and an endless list', async () => {
  publish(sign(list, [owner]))
  await rejected('image_source_not_found', /has no NOSUMS/, { sums_name: 'NOSUMS' })
  mirror.intercept = (_request, response) => {
    response.writeHead(200)
    response.write(Buffer.alloc(8 << 20))
    return true
  }
  await rejected('image_too_large', /SHA256SUMS.*exceeds the limit/)
})

test('rejects a file that does not match the signed list', async () => {
  publish(sign(list, [owner]))
  mirror.files.set('/release/disk.img', bootableDisk())
  const { status, paths } = await importPublished()
  assert.equal(status.error?.code, 'image_checksum_mismatch')
  assert.ok(!existsSync(paths.part))
})

test('the URL of a file in a mirror', () => {
  assert.equal(urlIn('https://example.org/a', 'b+c.img'), 'https://example.org/a/b%2Bc.img')
  assert.equal(urlIn('https://example.org/a/?x=y#z', 'b'), 'https://example.org/a/b')
  assert.equal(urlIn('nonsense', 'b'), 'nonsense')
})
