import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { silentLog } from '../lib/log.ts'
import { sweepReconciler } from './sweep.ts'

/** A driver's listing that the test writes, with rows that want `kept`. */
function world(kept: string[]) {
  const state = { listed: [] as string[], removed: [] as string[], fails: false }
  const reconcile = sweepReconciler(silentLog, {
    s: {
      interval_seconds: 30,
      list: async () => {
        if (state.fails) throw new Error('listing failed')
        return state.listed.map((id) => ({ id }))
      },
      unknown: async (ids) => ids.filter((id) => !kept.includes(id)),
      remove: async (id) => void state.removed.push(id),
      tidy: async () => {},
    },
  })
  const look = () => reconcile({ id: 's' } as never)
  return { state, look }
}

describe('sweep', () => {
  test('removes an orphan on the second sight, and never what a row wants', async () => {
    const { state, look } = world(['a'])
    state.listed = ['a', 'b']
    await look()
    assert.deepEqual(state.removed, [])
    await look()
    assert.deepEqual(state.removed, ['b'])
  })

  test('an orphan that was away for one sweep is a new suspect', async () => {
    const { state, look } = world([])
    for (const listed of [['b'], ['c'], ['b']]) {
      state.listed = listed
      await look()
    }
    assert.deepEqual(state.removed, [])
  })

  test('an empty or failed listing removes nothing', async () => {
    const { state, look } = world([])
    state.listed = ['b']
    await look()
    state.fails = true
    await assert.rejects(look())
    state.fails = false
    state.listed = []
    await look()
    assert.deepEqual(state.removed, [])
  })

  test('a sweep that is no longer known ends', async () => {
    const reconcile = sweepReconciler(silentLog, {})
    assert.deepEqual(await reconcile({ id: 'old' } as never), { after_seconds: null })
  })
})
