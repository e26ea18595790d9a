import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createSharedReads } from './shared-reads.ts'

function setUp() {
  let notify: (id: string | null) => void = () => {}
  const share = createSharedReads<number>({ onChange: (listener) => (notify = listener) })
  const ends: { resolve: (value: number) => void; reject: (error: Error) => void }[] = []
  const read = () => new Promise<number>((resolve, reject) => void ends.push({ resolve, reject }))
  return { share, ends, read, notify: (id: string | null) => notify(id) }
}

test('concurrent reads with the same environment and key share one read', async () => {
  const { share, ends, read } = setUp()
  const results = [share('e1', 'a', read), share('e1', 'a', read), share('e1', 'b', read), share('e2', 'a', read)]
  assert.equal(ends.length, 3)
  ends.forEach(({ resolve }, i) => void resolve(i))
  assert.deepEqual(await Promise.all(results), [0, 0, 1, 2])
  void share('e1', 'a', read)
  assert.equal(ends.length, 4, 'a finished read is not reused')
})

test('a read that started before a change is not joined after it', async () => {
  const { share, ends, read, notify } = setUp()
  for (const change of ['e1', null]) {
    const begun = ends.length
    const before = share('e1', 'a', read)
    notify('e2')
    const joined = share('e1', 'a', read)
    notify(change)
    const later = share('e1', 'a', read)
    const joinsLater = share('e1', 'a', read)
    assert.equal(ends.length - begun, 2)
    ends[begun]!.resolve(1)
    ends[begun + 1]!.resolve(2)
    assert.deepEqual(await Promise.all([before, joined, later, joinsLater]), [1, 1, 2, 2])
  }
})

test('a failed read fails for all that joined it, and the next one reads again', async () => {
  const { share, ends, read } = setUp()
  const results = [share('e1', 'a', read), share('e1', 'a', read)]
  ends[0]!.reject(new Error('unavailable'))
  for (const result of results) await assert.rejects(result, /unavailable/)
  const again = share('e1', 'a', read)
  ends[1]!.resolve(7)
  assert.equal(await again, 7)
})
