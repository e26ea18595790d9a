/** The matrix detects mutants: each has a fault that real systems have had. */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import type { Sql, Transaction } from '../db/database.ts'
import { type Compiled, compile, Statement } from '../db/sql.ts'
import { faultySql } from '../testing/faulty-sql.ts'
import type { Fault } from './faults.ts'
import { instance } from './kinds/instance.ts'
import { runWorkflow } from './run.ts'
import { createMatrixWorld, type Mutant } from './world.ts'

/** The findings of the matrix in the workflow of this name. */
async function findings(mutant: Mutant, name: string, only: Fault[]): Promise<string[]> {
  const world = await createMatrixWorld(mutant)
  after(() => world.close())
  const workflow = instance.workflows.find((each) => each.name === name)!
  return (await runWorkflow(world, instance, workflow, only)).findings
}

const has = (found: string[], pattern: RegExp) =>
  assert.ok(
    found.some((line) => pattern.test(line)),
    `no finding matches ${pattern}: ${found.join('\n')}`,
  )

describe('the matrix detects', () => {
  test('nothing in the product', async () => {
    assert.deepEqual(await findings({}, 'start', ['changed_meanwhile', 'run_twice', 'killed_after', 'reply_lost']), [])
  })

  test('a lost wake: a key is released without comparing the wakes since its claim', async () => {
    const engine_sql = (sql: Sql) =>
      changed(sql, (text) => text.replace('case when w.wakes =', 'case when w.wakes is not null or w.wakes ='))
    const found = await findings({ engine_sql }, 'start', ['changed_meanwhile'])
    has(found, /is terminating, not terminated/)
    has(found, /its instance key was woken during pass \d+ and is not due/)
  })

  test('a double start: a driver that starts a run again', async () => {
    const driver: Mutant['driver'] = (real, owner) => {
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

  test('absence from a failed check: a driver that reports a machine that it could not check as missing', async () => {
    const faulty_driver: Mutant['faulty_driver'] = (real) => ({
      ...real,
      get: (ref) =>
        real.get(ref).catch((error: NodeJS.ErrnoException) => {
          if (error.code === 'EMFILE') return null
          throw error
        }),
    })
    assert.notDeepEqual(await findings({ faulty_driver }, 'start', ['no_descriptors']), [])
  })

  test('a lost event: events that are written in a transaction after the commit', async () => {
    const sql = (real: Sql) => withLateOutbox(real)
    const found = await findings({ sql }, 'start', ['killed_after', 'reply_lost'])
    has(found, /expected .*instance\.started \d+, emitted (?!.*instance\.started)/)
  })

  test('a wrong event: a reboot that emits the event of a start', async () => {
    const sql = (real: Sql) => withOtherEvent(real)
    const found = await findings({ sql }, 'reboot', ['fails_before'])
    has(found, /expected .*instance\.rebooted (\d+), emitted .*instance\.started \1/)
  })
})

/** Transactions that write `instance.started` for `instance.rebooted`. */
function withOtherEvent(sql: Sql): Sql {
  const rename = (value: unknown) =>
    Array.isArray(value) ? value.map((each) => (each === 'instance.rebooted' ? 'instance.started' : each)) : value
  const begin = <T>(body: (tx: Transaction) => T | Promise<T>): Promise<Awaited<T>> =>
    sql.begin((tx) => {
      const renaming = Object.assign((...args: unknown[]) => (tx as (...args: unknown[]) => unknown)(...args), tx, {
        commitWith(statement: Parameters<typeof tx.commitWith>[0]) {
          const { text, values } = compile(statement)
          const execute = () => Promise.reject(new Error('only for a commit'))
          tx.commitWith(new Statement(text.split(/\$\d+/), values.map(rename), execute))
        },
      })
      return body(renaming as typeof tx)
    })
  return Object.assign((...args: unknown[]) => (sql as (...args: unknown[]) => unknown)(...args), sql, {
    begin,
    as: (environmentId: string) => withOtherEvent(sql.as(environmentId)),
  }) as Sql
}

/** Statements outside of transactions with another text. */
function changed(sql: Sql, change: (text: string) => string): Sql {
  return faultySql(sql, {
    transaction: (effect) => effect(true),
    statement: (compiled, effect) => effect({ ...compiled, text: change(compiled.text) }),
  })
}

/** Transactions whose last statement, which writes the events, is executed after the commit. */
function withLateOutbox(sql: Sql): Sql {
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
    as: (environmentId: string) => withLateOutbox(sql.as(environmentId)),
  }) as Sql
}
