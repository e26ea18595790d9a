/**
 * Fifty clients send the same POST with the same Idempotency-Key, and the control plane is killed -9 in the middle. Each
 * goes on until it has an answer. However that falls, there is one instance, and all were told of it.
 */
import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { after, before, test } from 'node:test'
import { seededRandom } from '../server/src/lib/random.ts'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane } from './control-plane.ts'

const CLIENTS = 50
const KILLS = 4
const seed = Number(process.env.SEED ?? randomInt(2 ** 31))

let plane: ControlPlane
before(async () => {
  plane = await ControlPlane.create()
})
after(() => plane?.teardown())

/** Sends until there is a final answer; a broken connection, 409 in flight, 429 and 503 are none. */
async function persist(key: string): Promise<{ id: string; replayed: boolean }> {
  const body = JSON.stringify({ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', name: key })
  let made: { id: string; replayed: boolean } | undefined
  await until(`${key} is answered`, async () => {
    const response = await fetch(`http://127.0.0.1:${plane.port}/v2/instances`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${plane.credentials.test_key}`,
        'content-type': 'application/json',
        'idempotency-key': key,
      },
      body,
    }).catch(() => null)
    const answer = (await response?.json().catch(() => null)) as { id: string } | null
    if (!response || !answer) return false
    if (response.status === 201) {
      made = { id: answer.id, replayed: response.headers.get('idempotent-replayed') === 'true' }
      return true
    }
    assert.ok([409, 429, 503].includes(response.status), `${response.status} ${JSON.stringify(answer)}`)
    return false
  })
  return made!
}

test('one effect for one Idempotency-Key, whatever is killed when', { timeout: 240_000 }, async (t) => {
  t.diagnostic(`SEED=${seed}`)
  const random = seededRandom(seed)
  for (let i = 0; i <= KILLS; i++) {
    const key = `race-${i}`
    const clients = Promise.all(Array.from({ length: CLIENTS }, () => persist(key)))
    clients.catch(() => {}) // awaited below
    if (i > 0) {
      await new Promise((resolve) => setTimeout(resolve, random.integer(40)))
      await plane.end('SIGKILL')
      await plane.start()
    }
    const answers = await clients
    assert.equal(new Set(answers.map((answer) => answer.id)).size, 1)
    assert.ok(answers.filter((answer) => !answer.replayed).length <= 1)
    const { body } = await plane.call('GET', `/v2/instances?name=${key}`, undefined, plane.credentials.test_key)
    assert.deepEqual(
      body.data.map((instance: { id: string }) => instance.id),
      [answers[0]!.id],
    )
    const log = await plane.call('GET', '/v2/audit_log?outcome=done', undefined, plane.credentials.test_key)
    const named = log.body.data.map((entry: { after: { name: string } }) => entry.after.name)
    assert.equal(named.filter((name: string) => name === key).length, 1, 'one entry in the audit log')
  }
})
