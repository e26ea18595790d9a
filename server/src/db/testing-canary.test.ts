import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTestDatabase } from './testing.ts'
import { assertNoSecrets, CANARY, secretsIn } from './testing-canary.ts'

test('finds a secret in plain text, hex and base64', () => {
  const key = `cn_live_sk_${'a1'.repeat(19)}`
  for (const text of [CANARY, key, `{"authorization":"Bearer ${key}"}`, '-----BEGIN OPENSSH PRIVATE KEY-----']) {
    assert.equal(secretsIn(`before ${text} after`).length, 1, text)
  }
  for (const before of ['', 'x', 'xx', 'xxx']) {
    for (const encoding of ['hex', 'base64'] as const) {
      const text = Buffer.from(`${before}${CANARY}after`).toString(encoding)
      assert.ok(secretsIn(text).length > 0, `${encoding} of ${before.length}`)
    }
  }
  assert.deepEqual(secretsIn('cn_live_sk_ab12...wxyz and cn_live_sk_9f8e7d6c5b4a3210'), [])
})

test('finds a secret in a row', async () => {
  const { owner } = await createTestDatabase()
  await assertNoSecrets(owner)
  await owner`insert into projects (id, name, created_at) values ('proj_1', ${CANARY}, now())`
  await assert.rejects(assertNoSecrets(owner), /projects contains a secret/)
  await owner`delete from projects`
})
