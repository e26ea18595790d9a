import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createSharedReads } from './shared-reads.ts'

function setUp() {
  let tell: (id: string | null) => void = () => {}
  const share = createSharedReads<number>({ onChange: (listener) => (tell = listener) })
  const ends: { resolve: (value: number) => void; reject: (error: Error) => void }[] = []
  const read = () => new Promise<number>((resolve, reject) => void ends.push({ resolve, reject }))
  return { share, ends, read, tell: (id: string | null) => tell(id) }
}

test('the same question at the same time is read once, another one and another environment by itself', async () => {
  const { share, ends, read } = setUp()
  const answers = [share('e1', 'a', read), share('e1', 'a', read), share('e1', 'b', read), share('e2', 'a', read)]
  assert.equal(ends.length, 3)
  ends.forEach(({ resolve }, i) => void resolve(i))
  assert.deepEqual(await Promise.all(answers), [0, 0, 1, 2])
  void share('e1', 'a', read)
  assert.equal(ends.length, 4, 'a read that has ended is not believed any longer')
})

test('a read that began before a change is joined by nobody who comes after it', async () => {
  const { share, ends, read, tell } = setUp()
  for (const change of ['e1', null]) {
    const begun = ends.length
    const before = share('e1', 'a', read)
    tell('e2')
    const joined = share('e1', 'a', read)
    tell(change)
    const later = share('e1', 'a', read)
    const joinsLater = share('e1', 'a', read)
    assert.equal(ends.length - begun, 2)
    ends[begun]!.resolve(1)
    ends[begun + 1]!.resolve(2)
    assert.deepEqual(await Promise.all([before, joined, later, joinsLater]), [1, 1, 2, 2])
  }
})

test('a failure is of those who asked, and the next one reads again', async () => {
  const { share, ends, read } = setUp()
  const answers = [share('e1', 'a', read), share('e1', 'a', read)]
  ends[0]!.reject(new Error('away'))
  for (const answer of answers) await assert.rejects(answer, /away/)
  const again = share('e1', 'a', read)
  ends[1]!.resolve(7)
  assert.equal(await again, 7)
})
