import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StartupError } from '../lib/errors.ts'
import { checkProxies, ownPorts } from './listen-address.ts'

const interfaces = { eth0: [{ address: '203.0.113.7' }, { address: 'fd00::7' }] } as never
const refused = (proxies: string[], reason: string | null = 'no nft') => {
  try {
    checkProxies(proxies, reason, interfaces)
    return null
  } catch (error) {
    assert.ok(error instanceof StartupError)
    return error.message
  }
}

test('refuses a trusted proxy with an IP address of this host where guests are not filtered', () => {
  for (const proxy of ['127.0.0.1', '127.9.0.0/16', '127.0.0.0/8', '126.0.0.0/7', '::1', '203.0.113.0/24', 'fd00::7']) {
    const message = refused([proxy, '198.51.100.1'])
    assert.match(message!, /guests reach the API: no nft/)
    assert.ok(message!.includes(`contains ${proxy},`), message!)
  }
  assert.equal(refused(['203.0.113.8', 'fd00::/128', '10.0.0.0/8']), null)
  assert.equal(refused([]), null)
  assert.equal(refused(['127.0.0.1'], null), null, 'a filtered guest does not reach the API')
})

test('names all ports of the control plane', () => {
  assert.deepEqual(ownPorts({ port: 8080, metrics_listen: null }), [8080])
  assert.deepEqual(ownPorts({ port: 8080, metrics_listen: '[::1]:9464' }), [8080, 9464])
})
