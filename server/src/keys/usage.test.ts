import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { compile } from '../db/sql.ts'
import { systemClock } from '../lib/clock.ts'
import { silentLog } from '../lib/log.ts'
import { createKeyUsage } from './usage.ts'

/** A manual clock, and a database that only records the statements. */
function world(options: { fails?: boolean } = {}) {
  let now = 0
  const alarms: { at: number; callback: () => void }[] = []
  const clock = {
    ...systemClock,
    monotonic: () => now,
    after: (ms: number, callback: () => void) => {
      alarms.push({ at: now + ms, callback })
      return { cancel() {} }
    },
  }
  const written: unknown[][] = []
  const sql = (async (strings: TemplateStringsArray, ...values: unknown[]) => {
    if (options.fails) throw new Error('away')
    written.push(compile({ strings, values }).values)
    return []
  }) as unknown as Sql
  const warnings: object[] = []
  const log = { ...silentLog, warn: (fields: object) => void warnings.push(fields) }
  const usage = createKeyUsage({ sql, clock, log })
  const pass = (ms: number) => {
    now += ms
    for (const { callback } of alarms.splice(0, alarms.length).filter((alarm) => alarm.at <= now)) callback()
    return new Promise(setImmediate)
  }
  return { usage, written, warnings, pass }
}

test('writes the uses of one second in one statement', async () => {
  const { usage, written, pass } = world()
  for (let i = 0; i < 100; i++) usage.record(`key_${i % 3}`, '10.0.0.1')
  assert.equal(written.length, 0)
  await pass(1_000)
  assert.deepEqual(
    written.map(([ids]) => ids),
    [['key_0', 'key_1', 'key_2']],
  )
})

test('writes the time and IP address of a use, at most once a minute', async () => {
  const { usage, written, pass } = world()
  usage.record('key_a', '10.0.0.1')
  usage.record('key_b', null)
  usage.record('key_a', '10.0.0.2')
  await pass(1_000)
  assert.deepEqual(written, [
    [
      ['key_a', 'key_b'],
      ['10.0.0.1', null],
    ],
  ])
  usage.record('key_a', '10.0.0.3')
  await pass(58_999)
  assert.equal(written.length, 1)
  await pass(1)
  usage.record('key_a', '10.0.0.3')
  await pass(1_000)
  assert.deepEqual(written[1], [['key_a'], ['10.0.0.3']])
})

test('logs a warning while the database is unavailable, and writes again after a minute', async () => {
  const { usage, warnings, pass } = world({ fails: true })
  usage.record('key_a', '10.0.0.1')
  await pass(1_000)
  assert.deepEqual(warnings, [{ error: 'away', keys: 1 }])
  usage.record('key_b', '10.0.0.1')
  await pass(1_000)
  assert.equal(warnings.length, 2)
})
