/** Runs the receivers in examples/ as separate programs and sends them real deliveries. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { createWorld, type World } from '../instances/testing-world.ts'
import { systemClock } from '../lib/clock.ts'
import { freePort } from '../testing/free-port.ts'
import { eventually } from './testing.ts'

const FOLDER = join(import.meta.dirname, '../../../examples')
const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
const hasPython = spawnSync('python3', ['--version']).status === 0

let world: World
before(async () => {
  world = await createWorld()
})
after(() => world?.stop())

async function testExample(command: string, file: string): Promise<void> {
  const { callTest: call } = world
  const port = await freePort()
  const url = `http://127.0.0.1:${port}/`
  const { body: hook } = await call('POST', '/v2/webhooks', { url, events: ['instance.*'] })
  // The receiver has the previous secret; during the overlap both verify.
  const { body: rotated } = await call('POST', `/v2/webhooks/${hook.id}/rotate_secret`)
  const env = { ...process.env, WEBHOOK_SECRET: hook.secret, PORT: String(port) }
  const child: ChildProcess = spawn(command, [join(FOLDER, file)], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise((resolve) => child.once('close', resolve))
  let output = ''
  child.stdout!.on('data', (chunk) => {
    output += chunk
  })
  const lines = () => output.split('\n').filter((line) => /^(new|old)/.test(line))
  try {
    await eventually(() => output.startsWith('ready'), 'the receiver is ready')
    const { body: made } = await call('POST', '/v2/instances', BODY)
    await eventually(() => lines().length === 1, 'the event')
    assert.match(lines()[0]!, new RegExp(`^new  \\d+ instance\\.created ${made.id} provisioning$`))
    const { body: list } = await call('GET', `/v2/webhooks/${hook.id}/deliveries`)
    await call('POST', `/v2/webhooks/${hook.id}/deliveries/${list.data[0].id}/resend`)
    await eventually(() => lines().length === 2, 'the resent event')
    assert.match(lines()[1]!, /^old {2}\d+ instance\.created/)
    const headers = {
      'webhook-id': 'evt_1',
      'webhook-timestamp': String(Math.floor(systemClock.now().getTime() / 1000)),
      'webhook-signature': `v1,${Buffer.alloc(32).toString('base64')}`,
    }
    assert.equal((await fetch(url, { method: 'POST', headers, body: '{}' })).status, 401, 'a wrong signature')
    assert.equal((await fetch(url, { method: 'POST', body: '{}' })).status, 401, 'no signature')
    assert.equal(lines().length, 2)
    assert.ok(rotated.secret !== hook.secret)
  } finally {
    await call('DELETE', `/v2/webhooks/${hook.id}`)
    child.kill()
    await ended
  }
}

describe('the example receivers', { timeout: 120_000 }, () => {
  test('TypeScript: verifies signatures and ignores a resent event', () =>
    testExample(process.execPath, 'webhook-receiver.ts'))
  test(
    `Python: verifies signatures and ignores a resent event${hasPython ? '' : ' (skipped: python3 is not installed)'}`,
    { skip: !hasPython },
    () => testExample('python3', 'webhook-receiver.py'),
  )
})
