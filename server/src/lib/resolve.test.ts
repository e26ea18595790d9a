import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { createResolve, hostsIn } from './resolve.ts'

const folder = mkdtempSync(join(tmpdir(), 'cn-hosts-'))
after(() => rmSync(folder, { recursive: true }))

test('finds names in a hosts file in any case and with comments', () => {
  const text = '# 10.0.0.9 commented\n10.0.0.1\tdb db.internal # the database\n::1 Both\n10.0.0.2 both\nnonsense db\n\n'
  assert.deepEqual(hostsIn(text, 'db'), ['10.0.0.1'])
  assert.deepEqual(hostsIn(text, 'DB.internal.'), ['10.0.0.1'])
  assert.deepEqual(hostsIn(text, 'both'), ['::1', '10.0.0.2'])
  for (const name of ['commented', 'the', '10.0.0.1', '', '#']) assert.deepEqual(hostsIn(text, name), [], name)
})

test('resolves names of the hosts file without a query', async () => {
  const file = join(folder, 'hosts')
  writeFileSync(file, '127.0.0.7 own.test\n')
  assert.deepEqual(await createResolve(100, file)('own.test'), ['127.0.0.7'])
})
