import assert from 'node:assert/strict'
import { before, beforeEach, describe, test } from 'node:test'
import type { Sql } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import { silentLog } from '../lib/log.ts'
import { orphanSweepReconciler } from './orphan-sweep.ts'

let sql: Sql
let owner: Sql
before(async () => {
  ;({ sql, owner } = await createTestDatabase())
})

/** A sweep over a list of machines that the test sets; the machines in `kept` have rows. */
function world(kept: string[]) {
  const state = { listed: [] as string[], removed: [] as string[], fails: false }
  const sweep = {
    interval_seconds: 30,
    list: async () => {
      if (state.fails) throw new Error('listing failed')
      return state.listed.map((id) => ({ id }))
    },
    unknown: async (ids: string[]) => ids.filter((id) => !kept.includes(id)),
    remove: async (id: string) => void state.removed.push(id),
  }
  /** One pass with a new reconciler, so that no state in memory is shared. */
  const pass = () => orphanSweepReconciler(sql, silentLog, { s: sweep })({ id: 's' } as never)
  return { state, pass }
}

describe('the orphan sweep', () => {
  beforeEach(async () => void (await owner`truncate sweep_suspects`))

  test('removes a machine without a row when two consecutive sweeps found it', async () => {
    const { state, pass } = world(['a'])
    state.listed = ['a', 'b']
    await pass()
    assert.deepEqual(state.removed, [])
    await pass()
    assert.deepEqual(state.removed, ['b'])
  })

  test('keeps an orphan that the previous sweep did not find', async () => {
    const { state, pass } = world([])
    for (const listed of [['b'], ['c'], ['b']]) {
      state.listed = listed
      await pass()
    }
    assert.deepEqual(state.removed, [])
  })

  test('removes nothing after an empty or failed listing', async () => {
    const { state, pass } = world([])
    state.listed = ['b']
    await pass()
    state.fails = true
    await assert.rejects(pass())
    state.fails = false
    state.listed = []
    await pass()
    assert.deepEqual(state.removed, [])
    state.listed = ['b']
    await pass()
    assert.deepEqual(state.removed, [])
  })

  test('deletes its work key when its region is no longer configured', async () => {
    const reconcile = orphanSweepReconciler(sql, silentLog, {})
    assert.deepEqual(await reconcile({ id: 'old' } as never), { after_seconds: null })
  })
})
