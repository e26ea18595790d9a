import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createQueue } from './queue.ts'

test('never exceeds its capacity, returns kept rows before reads, and counts every row', () => {
  const moves = fc.array(fc.oneof(fc.constant('read'), fc.constant('kept'), fc.integer({ min: 1, max: 7 })))
  fc.assert(
    fc.property(moves, fc.integer({ min: 1, max: 10 }), (moves, capacity) => {
      const queue = createQueue<string>(capacity)
      const added = { read: 0, kept: 0 }
      const taken = { read: 0, kept: 0 }
      for (const move of moves) {
        if (typeof move === 'number') {
          const rows = queue.take(move)
          assert.ok(rows.length <= move)
          assert.deepEqual(rows, rows.toSorted(), 'kept ones come first')
          for (const row of rows) taken[row as 'read']++
        } else {
          added[move as 'read']++
          const refused = !queue.add(move, move === 'kept')
          if (refused && move === 'kept')
            assert.ok(queue.take(capacity).every((row) => (taken[row as 'read']++, row === 'kept')))
        }
        assert.ok(queue.size() <= capacity)
      }
      for (const row of queue.take(capacity)) taken[row as 'read']++
      const dropped = queue.dropped()
      assert.deepEqual(added, { read: taken.read + dropped.reads, kept: taken.kept + dropped.kept })
    }),
  )
})
