import assert from 'node:assert/strict'
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { appendBounded } from './console-log.ts'
import {
  afterPause,
  afterReset,
  type HeartbeatLine,
  HUNG_AFTER_MS,
  hasSignaledReady,
  isHung,
  NO_HEARTBEAT,
  readHeartbeatFile,
  TICK_MS,
  updateHeartbeat,
} from './heartbeat.ts'

const sign = (mark: string, alive = true): HeartbeatLine => ({ mark, alive, at: new Date(0) })
const ticks = (from: typeof NO_HEARTBEAT, signs: HeartbeatLine[], elapsed = TICK_MS) =>
  signs.reduce((heartbeat, each) => updateHeartbeat(heartbeat, each, elapsed), from)
const silence = (mark: string, alive = true) => Array.from({ length: 20 }, () => sign(mark, alive))

test('a guest whose heartbeat stops hangs, until the next heartbeat', () => {
  const silent = ticks(NO_HEARTBEAT, silence('1'))
  assert.equal(isHung(silent), true)
  assert.equal(isHung(updateHeartbeat(silent, sign('2'), TICK_MS)), false)
})

test('a guest without a heartbeat, after `bye` or after a reset does not hang', () => {
  assert.equal(isHung(ticks(NO_HEARTBEAT, silence('1', false))), false)
  const heard = updateHeartbeat(NO_HEARTBEAT, sign('1'), TICK_MS)
  assert.equal(isHung(ticks(heard, silence('2', false))), false)
  const reset = ticks(afterReset(heard), silence('1'))
  assert.equal(isHung(reset), false)
  assert.equal(isHung(ticks(reset, silence('2'))), true, 'until its next heartbeat')
})

test('counts only silence that was observed', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 10_000_000 }), fc.nat({ max: 6 }), (elapsed, checks) => {
      const seen = ticks(NO_HEARTBEAT, silence('old').slice(0, 1 + checks), elapsed)
      assert.ok(seen.silent_ms <= checks * 2 * TICK_MS, 'a late check counts as a short one')
      assert.equal(updateHeartbeat(afterPause(seen), sign('old'), 1).silent_ms, 1)
      if (checks * 2 * TICK_MS < HUNG_AFTER_MS) assert.equal(isHung(seen), false)
    }),
  )
})

test('reads the last line and a mark that changes with each line; null without a file', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'heartbeat-'))
  const file = join(folder, 'ready')
  try {
    assert.equal(await readHeartbeatFile(file), null)
    await writeFile(file, 'ready 0123\n')
    assert.equal((await readHeartbeatFile(file))?.alive, false)
    await appendFile(file, 'alive\r\n')
    const first = await readHeartbeatFile(file)
    await appendFile(file, 'alive\n')
    const second = await readHeartbeatFile(file)
    assert.deepEqual([first?.alive, second?.alive], [true, true])
    assert.notEqual(first?.mark, second?.mark)
    await appendFile(file, 'bye\n')
    assert.equal((await readHeartbeatFile(file))?.alive, false)
    // A flooded file is truncated anywhere; the next line still counts.
    await writeFile(file, `ready 0123\n${'alive\n'.repeat(20_000)}`)
    await appendBounded(file, Buffer.from('bye\nalive\n'), { max_bytes: 100, keep_bytes: 50, head_bytes: 20 })
    assert.equal((await readHeartbeatFile(file))?.alive, true)
    assert.equal(await hasSignaledReady(file), true)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('a guest is ready after its line, or after a heartbeat where the line was lost', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'ready-'))
  const file = join(folder, 'ready')
  const isReady = async (text: string) => {
    await writeFile(file, text)
    return hasSignaledReady(file)
  }
  try {
    assert.equal(await hasSignaledReady(file), false)
    for (const text of ['ready 0123\n', 'ready 0123\r\nalive\n', 've\nalive\n', 'noise\nready 1\n'])
      assert.equal(await isReady(text), true, text)
    for (const text of ['', 'ready', 'ready 0123', 'already 1\n', 'alive', 'not alive\n', 'bye\n'])
      assert.equal(await isReady(text), false, text)
  } finally {
    await rm(folder, { recursive: true })
  }
})
