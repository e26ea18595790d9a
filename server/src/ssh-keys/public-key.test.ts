import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import fc from 'fast-check'
import { parsePublicKey } from './public-key.ts'
import { SshKey, SshKeyCreate } from './schema.ts'

const folder = mkdtempSync(join(tmpdir(), 'cloudnexus-keys-'))
after(() => rmSync(folder, { recursive: true }))
const keygen = (...args: string[]) => execFileSync('ssh-keygen', args, { cwd: folder, encoding: 'utf8' })
const fingerprint = (line: string) => {
  writeFileSync(join(folder, 'key.pub'), `${line}\n`)
  return keygen('-lf', 'key.pub').split(' ')[1]
}
const make = (type: string, bits?: number) => {
  const name = `${type}-${bits}`
  keygen('-q', '-t', type, ...(bits ? ['-b', String(bits)] : []), '-N', '', '-C', 'me@laptop', '-f', name)
  return { pub: readFileSync(join(folder, `${name}.pub`), 'utf8'), secret: readFileSync(join(folder, name), 'utf8') }
}

/** A key of these fields in the format of OpenSSH. */
function line(type: string, ...fields: (string | Buffer)[]): string {
  const parts = [type, ...fields].flatMap((field) => {
    const bytes = Buffer.from(field as string)
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    return [length, bytes]
  })
  return `${type} ${Buffer.concat(parts).toString('base64')}`
}
const point = (length: number) => Buffer.concat([Buffer.from([4]), Buffer.alloc(length - 1, 9)])
const exampleOf = (schema: object) => (schema as { examples: string[] }).examples
const codeOf = (text: string) => {
  const parsed = parsePublicKey(text)
  return 'code' in parsed ? parsed.code : null
}

describe('keys of ssh-keygen', () => {
  for (const [type, bits] of [
    ['ed25519'],
    ['ecdsa', 256],
    ['ecdsa', 384],
    ['ecdsa', 521],
    ['rsa', 2048],
    ['rsa', 3072],
  ] as const) {
    test(`${type} ${bits ?? ''} is accepted, with the fingerprint of ssh-keygen`, () => {
      const { pub } = make(type, bits)
      assert.deepEqual(parsePublicKey(pub), { line: pub.trim(), fingerprint: fingerprint(pub.trim()) })
    })
  }
  test('rejects RSA below 2048 bits', () => {
    const parsed = parsePublicKey(make('rsa', 1024).pub)
    assert.match('message' in parsed ? parsed.message : '', /RSA key of 1024 bits/)
  })
  test('rejects a private key without repeating it', () => {
    const { secret } = make('ed25519', 256)
    for (const text of [
      'PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nAAAA',
      secret,
      secret.replaceAll('\n', ' '),
      '-----BEGIN RSA PRIVATE KEY-----',
    ]) {
      const parsed = parsePublicKey(text)
      assert.ok('code' in parsed && parsed.code === 'private_key')
      assert.ok(!parsed.message.includes(secret.split('\n')[1]!))
    }
  })
})

test('accepts tabs between the parts, and any words in the comment', () => {
  const key = line('ssh-ed25519', Buffer.alloc(32, 7))
  for (const text of [key.replaceAll(' ', '\t'), `${key}\t the PRIVATE KEY owner`, ` ${key}  PRIVATE KEY`]) {
    const parsed = parsePublicKey(text)
    assert.ok('line' in parsed && parsed.line.startsWith(key), JSON.stringify(parsed))
  }
})

test('names the command that converts a key of another format', () => {
  for (const text of [
    '---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----',
    '-----BEGIN PUBLIC KEY-----\nAAAA',
  ]) {
    const parsed = parsePublicKey(text)
    assert.ok('message' in parsed && /OpenSSH.*ssh-keygen -i/.test(parsed.message))
  }
})

test('accepts security keys', () => {
  for (const key of [
    line('sk-ssh-ed25519@openssh.com', Buffer.alloc(32, 7), 'ssh:'),
    line('sk-ecdsa-sha2-nistp256@openssh.com', 'nistp256', point(65), 'ssh:'),
  ]) {
    const parsed = parsePublicKey(`${key} token`)
    assert.ok('line' in parsed, JSON.stringify(parsed))
    assert.match(parsed.fingerprint, /^SHA256:[A-Za-z0-9+/]{43}$/)
  }
})

test('the example in the API description is a valid key with its fingerprint', () => {
  const [example] = exampleOf(SshKeyCreate.properties.public_key)
  const parsed = parsePublicKey(example!)
  assert.ok('line' in parsed)
  assert.deepEqual(exampleOf(SshKey.properties.fingerprint), [parsed.fingerprint])
})

test('accepts surrounding white space, and spaces in the comment', () => {
  const key = line('ssh-ed25519', Buffer.alloc(32, 1))
  for (const text of [key, ` ${key}  \r\n`, `${key}\n`])
    assert.equal((parsePublicKey(text) as { line: string }).line, key)
  const { line: kept } = parsePublicKey(`${key} "me, myself" = \\ é`) as { line: string }
  assert.equal(kept, `${key} "me, myself" = \\ é`)
})

describe('rejects', () => {
  const key = line('ssh-ed25519', Buffer.alloc(32, 1))
  const cases: [string, string, string][] = [
    ['nothing', '', 'unknown_type'],
    ['DSA', line('ssh-dss', 'x'), 'unknown_type'],
    ['a certificate', line('ssh-ed25519-cert-v01@openssh.com', 'x'), 'unknown_type'],
    ['PEM', '-----BEGIN PUBLIC KEY-----', 'unknown_type'],
    ['options', `command="rm -rf /" ${key}`, 'options_not_allowed'],
    ['two keys', `${key}\n${key}`, 'invalid'],
    ['a line break in the comment', `${key} a\nssh-rsa b`, 'invalid'],
    ['an escape sequence', `${key} \u001b[31m`, 'invalid'],
    ['no data', 'ssh-ed25519', 'invalid'],
    ['base64 with something else in it', key.replace(/(.{30})/, '$1!'), 'invalid'],
    ['data that end early', key.slice(0, -8), 'invalid'],
    ['data that go on', line('ssh-ed25519', Buffer.alloc(32), 'more'), 'invalid'],
    ['another type inside', key.replace('ssh-ed25519', 'ssh-rsa'), 'invalid'],
    ['a short point', line('ssh-ed25519', Buffer.alloc(31)), 'invalid'],
    ['another curve inside', line('ecdsa-sha2-nistp256', 'nistp384', point(97)), 'invalid'],
    ['a compressed point', line('ecdsa-sha2-nistp256', 'nistp256', Buffer.alloc(33, 2)), 'invalid'],
    ['an even exponent', line('ssh-rsa', Buffer.from([2]), Buffer.alloc(257, 1)), 'invalid'],
    ['an enormous modulus', line('ssh-rsa', Buffer.from([3]), Buffer.alloc(3000, 1)), 'invalid'],
    ['a modulus of zero', line('ssh-rsa', Buffer.from([3]), Buffer.alloc(257)), 'invalid'],
  ]
  for (const [what, text, code] of cases) test(what, () => assert.equal(codeOf(text), code))

  test('any other text, without throwing', () => {
    const near = fc
      .tuple(fc.nat(key.length), fc.string({ unit: 'binary' }))
      .map(([at, text]) => key.slice(0, at) + text + key.slice(at + 1))
    fc.assert(fc.property(fc.oneof(fc.string({ unit: 'binary' }), near), (text) => void parsePublicKey(text)))
  })
})
