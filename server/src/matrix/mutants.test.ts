/** The matrix is worth what it finds: builds that are broken on purpose, each as real systems once were. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import type { Sql, Transaction } from '../db/database.ts'
import { type Compiled, compile } from '../db/sql.ts'
import { faultySql } from '../testing/faulty-sql.ts'
import type { Fault } from './faults.ts'
import { runWorkflow } from './run.ts'
import { WORKFLOWS } from './workflows.ts'
import { type Broken, createMatrixWorld } from './world.ts'

/** What the matrix finds in this build. */
async function findings(broken: Broken, name: string, only: Fault[]): Promise<string[]> {
  const world = await createMatrixWorld(broken)
  after(() => world.close())
  return (await runWorkflow(world, WORKFLOWS.find((workflow) => workflow.name === name)!, only)).findings
}

const has = (found: string[], pattern: RegExp) =>
  assert.ok(
    found.some((line) => pattern.test(line)),
    `nothing was found that is like ${pattern}: ${found.join('\n')}`,
  )

describe('the matrix finds', () => {
  test('nothing in the build as it is', async () => {
    assert.deepEqual(await findings({}, 'start', ['changed_meanwhile', 'run_twice', 'killed_after', 'reply_lost']), [])
  })

  test('a lost wake: a key is released without comparing the wakes since its claim', async () => {
    const engine_sql = (sql: Sql) =>
      changed(sql, (text) => text.replace('case when w.wakes =', 'case when w.wakes is not null or w.wakes ='))
    const found = await findings({ engine_sql }, 'start', ['changed_meanwhile'])
    has(found, /is terminating, not terminated/)
    has(found, /its instance work was woken during pass \d+ and is not due/)
  })

  test('a double start: a driver that starts a run again because its state says that it did not', async () => {
    const driver: Broken['driver'] = (real, owner) => {
      return {
        ...real,
        start: async (...args: Parameters<typeof real.start>) => {
          await owner`update simulated_machines set machine = machine || '{"run":0,"power":"stopped"}' where id = ${args[0].id}`
          await real.start(...args)
        },
      }
    }
    has(await findings({ driver }, 'start', ['run_twice']), /run 2 was started twice/)
  })

  test('a lost event: events that are written after the commit, in a transaction of their own', async () => {
    const sql = (real: Sql) => withLateHeads(real)
    const found = await findings({ sql }, 'start', ['killed_after', 'reply_lost'])
    has(found, /it moved by .*instance\.started \d+ and emitted (?!.*instance\.started)/)
  })
})

/** Statements outside of transactions with another text. */
function changed(sql: Sql, change: (text: string) => string): Sql {
  return faultySql(sql, {
    transaction: (effect) => effect(true),
    statement: (compiled, effect) => effect({ ...compiled, text: change(compiled.text) }),
  })
}

/** Transactions whose last statement, which writes the events, follows after the commit. */
function withLateHeads(sql: Sql): Sql {
  const begin = async <T>(body: (tx: Transaction) => T | Promise<T>): Promise<Awaited<T>> => {
    let last: Compiled | null = null
    const result = await sql.begin((tx) => {
      const late = Object.assign((...args: unknown[]) => (tx as (...args: unknown[]) => unknown)(...args), tx, {
        commitWith: (statement: Parameters<typeof tx.commitWith>[0]) => void (last = compile(statement)),
      })
      return body(late as typeof tx)
    })
    if (last !== null) {
      const { text, values } = last as Compiled
      await sql.begin((tx) => tx.unsafe(text, values))
    }
    return result
  }
  return Object.assign((...args: unknown[]) => (sql as (...args: unknown[]) => unknown)(...args), sql, {
    begin,
    as: (environmentId: string) => withLateHeads(sql.as(environmentId)),
  }) as Sql
}
