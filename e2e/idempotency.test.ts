/**
 * Fifty clients send the same POST with the same Idempotency-Key while the control plane is killed with SIGKILL. Each client
 * retries until it has a response. There must be one instance, and every response must contain it.
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

/** Retries until a final response: not a broken connection, 409 for a request in progress, 429 or 503. */
async function persist(key: string): Promise<{ id: string; replayed: boolean }> {
  const body = JSON.stringify({ region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', name: key })
  let made: { id: string; replayed: boolean } | undefined
  await until(`a final response for ${key}`, async () => {
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

test('an Idempotency-Key has one effect, whenever the process is killed', { timeout: 240_000 }, async (t) => {
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
