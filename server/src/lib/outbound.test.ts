import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  checkDestination,
  isAddressAllowed,
  nextHop,
  OutboundError,
  type OutboundPolicy,
  parseDestination,
  parseRange,
} from './outbound.ts'

const policy = (addresses: string[], allowedAddresses: string[] = []): OutboundPolicy => ({
  allowHttp: true,
  allowedAddresses,
  dnsTimeoutMs: 2000,
  resolve: async () => addresses,
})

/** The one text that a caller may see, whatever the reason. */
async function isRefused(work: () => unknown): Promise<boolean> {
  try {
    await work()
    return false
  } catch (error) {
    assert.ok(error instanceof OutboundError, String(error))
    assert.equal(error.message, 'destination not allowed')
    return true
  }
}

const specialLiterals = [
  ...['127.0.0.1', '127.1', '0x7f.1', '0x7f000001', '2130706433', '017700000001', '0177.0.0.1', '127.0.0.1.'],
  ...['①②⑦.0.0.1', '１２７.0.0.1', '127。0。0。1', '%31%32%37.0.0.1', '0', '0.0.0.0', '0x0'],
  ...['10.0.0.1', '172.16.0.1', '192.168.1.1', '100.64.0.1', '169.254.169.254', '0xa9fea9fe', '192.0.0.8'],
  ...['198.18.0.1', '192.0.2.1', '198.51.100.1', '203.0.113.1', '224.0.0.1', '240.0.0.1', '255.255.255.255'],
  ...['[::1]', '[::]', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]', '[::ffff:a9fe:a9fe]', '[::127.0.0.1]', '[::7f00:1]'],
  ...['[64:ff9b::7f00:1]', '[64:ff9b:1::7f00:1]', '[2002:7f00:1::]', '[2001::1]', '[fc00::1]', '[fd00:ec2::254]'],
  ...['[fe80::1]', '[fec0::1]', '[ff02::1]', '[2001:db8::1]', '[3fff::1]', '[100::1]', '[5f00::1]', '[4000::1]'],
]

for (const literal of specialLiterals) {
  test(`refuses the literal ${literal}`, async () => {
    const never = policy([])
    never.resolve = () => assert.fail('a literal is not resolved')
    assert.ok(await isRefused(() => checkDestination(`http://${literal}:8080/x`, never)))
    assert.ok(await isRefused(() => checkDestination(`https://${literal}/x`, never)))
  })
}

for (const address of ['8.8.8.8', '1.1.1.1', '2606:4700::1111', '::ffff:8.8.8.8']) {
  test(`allows public ${address}`, async () => {
    assert.ok(isAddressAllowed(address, []))
    const host = address.includes(':') ? `[${address}]` : address
    assert.equal((await checkDestination(`https://${host}/`, policy([]))).addresses.length, 1)
  })
}

for (const address of ['', 'example.org', '0x7f.1', '127.1', '2130706433', 'fe80::1%eth0', '8.8.8.8/32', ' 8.8.8.8']) {
  test(`rejects what is not an IP address: ${JSON.stringify(address)}`, () => {
    assert.equal(isAddressAllowed(address, ['0.0.0.0/0', '::/0']), false)
  })
}

const refusedUrls = [
  ...['', 'x', '//example.org/', 'ftp://example.org/', 'file:///etc/passwd', 'data:,x', 'javascript:1', 'http://'],
  ...['http://user@example.org/', 'http://user:pw@example.org/', 'http://:pw@example.org/', 'http://example.org/#x'],
  ...['http://example.org/#', 'http://example.org:22/', 'http://example.org:25/', 'http://example.org:0/'],
  ...['http://example.org:1023/', 'http://example.org:65536/', 'https://example.org:81/'],
]
for (const url of refusedUrls) {
  test(`refuses the URL ${JSON.stringify(url)}`, async () => {
    assert.ok(await isRefused(() => parseDestination(url, true)))
  })
}

test('accepts the allowed ports, and http only if it is allowed', async () => {
  for (const end of [':80/', ':443/', ':1024/', ':65535/', '/?a=b']) parseDestination(`http://example.org${end}`, true)
  assert.ok(await isRefused(() => parseDestination('http://example.org/', false)))
  assert.equal(parseDestination('https://example.org/', false).hostname, 'example.org')
})

test('rejects a name if one of its addresses is forbidden', async () => {
  for (const bad of ['::1', '127.0.0.1', '10.0.0.1', '169.254.169.254', '::ffff:10.0.0.1', 'nonsense']) {
    assert.ok(await isRefused(() => checkDestination('https://example.org/', policy(['8.8.8.8', bad, '1.1.1.1']))), bad)
  }
  assert.ok(await isRefused(() => checkDestination('https://localhost./', { ...policy([]), resolve: undefined })))
})

test('allows the ranges that the operator configured, and no others', async () => {
  const allowed = ['127.0.0.0/8', 'fd00::/8', '10.1.2.3']
  for (const address of ['127.0.0.1', '127.255.0.9', '::ffff:127.0.0.1', 'fd00::1', '10.1.2.3']) {
    assert.ok(isAddressAllowed(address, allowed), address)
  }
  for (const address of ['10.1.2.4', '::1', 'fc00::1', '0.0.0.0'])
    assert.ok(!isAddressAllowed(address, allowed), address)
  for (const text of ['127.0.0.1/33', 'localhost', '127.1/8', '', '::/129', '10.0.0.0/']) {
    assert.throws(() => parseRange(text), TypeError, text)
  }
})

test('reports name_not_resolved for a name that does not resolve or times out', { timeout: 60_000 }, async () => {
  const alive = setInterval(() => {}, 1000)
  for (const resolve of [
    async () => [],
    () => Promise.reject(new Error('ENOTFOUND')),
    () => new Promise<string[]>(() => {}),
  ]) {
    const work = checkDestination('https://example.org/', { ...policy([]), dnsTimeoutMs: 20, resolve })
    await assert.rejects(work, { code: 'name_not_resolved' })
  }
  const ended = AbortSignal.abort(new Error('ended'))
  await assert.rejects(checkDestination('https://example.org/', policy(['8.8.8.8']), ended), { message: 'ended' })
  clearInterval(alive)
})

test('checks a redirect as the first URL, removes its fragment, and rejects a redirect from https to http', async () => {
  const from = new URL('https://example.org/a/b')
  assert.equal(nextHop(from, '../c#part', true).href, 'https://example.org/c')
  assert.equal(nextHop(new URL('http://example.org/'), 'https://example.com/', true).href, 'https://example.com/')
  for (const location of [
    'http://example.org/',
    'ftp://example.org/',
    'https://u@example.org/',
    'https://x:22/',
    '//[',
  ]) {
    assert.ok(await isRefused(() => nextHop(from, location, true)), location)
  }
})

test('property: throws only OutboundError, and an accepted literal is unicast', async () => {
  const part = fc.oneof(
    fc.nat(255).map(String),
    fc.nat(255).map((n) => `0x${n.toString(16)}`),
    fc.string({ maxLength: 4 }),
  )
  const host = fc.oneof(
    fc.ipV4Extended(),
    fc.ipV6().map((text) => `[${text}]`),
    fc.array(part).map((p) => p.join('.')),
  )
  await fc.assert(
    fc.asyncProperty(host, async (name) => {
      const refused = await isRefused(() => checkDestination(`http://${name}/`, policy(['127.0.0.1'])))
      if (refused) return
      const { url, addresses } = await checkDestination(`http://${name}/`, policy(['127.0.0.1']))
      assert.ok(addresses.every((address) => isAddressAllowed(address, [])))
      assert.ok(!/^(127|10|0)\./.test(url.hostname))
    }),
    { numRuns: 2000 },
  )
})
