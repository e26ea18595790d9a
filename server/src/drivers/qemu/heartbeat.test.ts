import assert from 'node:assert/strict'
import { appendFile, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { boundReadyFile } from './console-log.ts'
import {
  afterPause,
  afterReset,
  HANGS_AFTER_MS,
  hangs,
  NOT_HEARD,
  readSign,
  type Sign,
  TICK_MS,
  tick,
} from './heartbeat.ts'

const sign = (mark: string, alive = true): Sign => ({ mark, alive, at: new Date(0) })
const ticks = (from: typeof NOT_HEARD, signs: Sign[], elapsed = TICK_MS) =>
  signs.reduce((heartbeat, each) => tick(heartbeat, each, elapsed), from)
const silence = (mark: string, alive = true) => Array.from({ length: 20 }, () => sign(mark, alive))

test('a guest that was alive and is silent hangs, and one that speaks again does not', () => {
  const silent = ticks(NOT_HEARD, silence('1'))
  assert.equal(hangs(silent), true)
  assert.equal(hangs(tick(silent, sign('2'), TICK_MS)), false)
})

test('one that was never heard, said bye, or was reset never hangs', () => {
  assert.equal(hangs(ticks(NOT_HEARD, silence('1', false))), false)
  const heard = tick(NOT_HEARD, sign('1'), TICK_MS)
  assert.equal(hangs(ticks(heard, silence('2', false))), false)
  const reset = ticks(afterReset(heard), silence('1'))
  assert.equal(hangs(reset), false)
  assert.equal(hangs(ticks(reset, silence('2'))), true, 'until it is heard again')
})

test('silence is only what was watched', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 10_000_000 }), fc.nat({ max: 6 }), (elapsed, looks) => {
      const seen = ticks(NOT_HEARD, silence('long ago').slice(0, 1 + looks), elapsed)
      assert.ok(seen.silent_ms <= looks * 2 * TICK_MS, 'a tick that came late is a short one')
      assert.equal(tick(afterPause(seen), sign('long ago'), 1).silent_ms, 1)
      if (looks * 2 * TICK_MS < HANGS_AFTER_MS) assert.equal(hangs(seen), false)
    }),
  )
})

test('the file tells: the last line, a mark for each, and no file no sign', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'heartbeat-'))
  const file = join(folder, 'ready')
  try {
    assert.equal(await readSign(file), null)
    await writeFile(file, 'ready 0123\n')
    assert.equal((await readSign(file))?.alive, false)
    await appendFile(file, 'alive\r\n')
    const first = await readSign(file)
    await appendFile(file, 'alive\n')
    const second = await readSign(file)
    assert.deepEqual([first?.alive, second?.alive], [true, true])
    assert.notEqual(first?.mark, second?.mark)
    await appendFile(file, 'bye\n')
    assert.equal((await readSign(file))?.alive, false)
    // A flood is cut anywhere; the next line counts all the same.
    await writeFile(file, `ready 0123\n${'alive\n'.repeat(20_000)}`)
    await boundReadyFile(file)
    await truncate(file, 1021)
    await appendFile(file, 'alive\n')
    assert.equal((await readSign(file))?.alive, true)
  } finally {
    await rm(folder, { recursive: true })
  }
})
