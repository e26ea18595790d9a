import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createManualClock } from '../testing/manual-clock.ts'
import { createConsoleReaders } from './console-readers.ts'

const never = new AbortController().signal

/** A log that a test writes, and the number of its reads. */
function setup() {
  const clock = createManualClock()
  const state = { log: Buffer.from('boot\n'), reads: 0 }
  const from = async () => {
    state.reads++
    return state.log
  }
  const readers = createConsoleReaders(clock)
  const pass = async () => {
    for (let i = 0; i < 20; i++) await Promise.resolve()
    clock.advance(500)
    for (let i = 0; i < 20; i++) await new Promise(setImmediate)
  }
  return { state, from, readers, pass }
}

test('300 streams of a log cost one read per interval, and each gets the log and every addition once', async () => {
  const { state, from, readers, pass } = setup()
  const streams = Array.from({ length: 300 }, () => readers.follow('a', from, undefined, never))
  const firsts = await Promise.all(streams.map(async (stream) => (await stream.next()).value))
  assert.ok(firsts.every((part) => part?.toString() === 'boot\n'))
  const nexts = streams.map((stream) => stream.next())
  state.log = Buffer.from('boot\nlogin: ')
  await pass()
  const parts = await Promise.all(nexts)
  assert.ok(parts.every(({ value }) => value?.toString() === 'login: '))
  assert.equal(new Set(parts.map(({ value }) => value)).size, 1, 'the buffer is shared')
  assert.equal(state.reads, 2)
  await Promise.all(streams.map((stream) => stream.return()))
  await pass()
  await pass()
  assert.equal(state.reads <= 4, true, 'no read without a stream')
})

test('a stream that joins later begins with the log of that moment', async () => {
  const { state, from, readers, pass } = setup()
  const early = readers.follow('a', from, undefined, never)
  await early.next()
  state.log = Buffer.from('boot\nx\ny\n')
  await pass()
  const late = readers.follow('a', from, 1, never)
  assert.equal((await late.next()).value?.toString(), 'y\n')
  assert.equal((await early.next()).value?.toString(), 'x\ny\n')
  await Promise.all([early.return(), late.return()])
})

test('ends a stream that is more than 1 MiB behind, and no other', async () => {
  const { state, from, readers, pass } = setup()
  const [slow, fast] = [readers.follow('a', from, undefined, never), readers.follow('a', from, undefined, never)]
  await Promise.all([slow.next(), fast.next()])
  for (let i = 0; i < 3; i++) {
    state.log = Buffer.concat([state.log, Buffer.alloc(600_000, `${i}`)])
    await pass()
    assert.equal((await fast.next()).value?.length, 600_000)
  }
  assert.equal((await slow.next()).done, true)
  await fast.return()
})

test('a stream ends when its signal aborts or the log cannot be read', async () => {
  const { state, from, readers, pass } = setup()
  const controller = new AbortController()
  const one = readers.follow('a', from, undefined, controller.signal)
  await one.next()
  const end = one.next()
  controller.abort()
  assert.equal((await end).done, true)
  const other = readers.follow(
    'b',
    async () => (state.reads++ > 1 ? Promise.reject(new Error('away')) : state.log),
    undefined,
    never,
  )
  await other.next()
  const failed = other.next()
  await pass()
  await pass()
  assert.equal((await failed).done, true)
})
