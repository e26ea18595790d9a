/** The control plane's connections with the points of faults.ts and the changes of a mutant. */
import type { Sql, Transaction } from '../db/database.ts'
import { type Compiled, compile, createQuery, type Query, Statement } from '../db/sql.ts'
import { atPoint, currentTick } from './faults.ts'

/** How a mutant changes statements. */
export type Tampering = {
  /** Returns the statement that is sent instead. */
  rewrite?(statement: Compiled): Compiled
  /** The last statement of a transaction is executed after its commit. */
  lastIsOutside?: boolean
}

/**
 * @param tampering read at each statement, because histories have different mutants
 * @param committed called for each committed transaction, also when its result is lost
 */
export function faultySql(inner: Sql, tampering: () => Tampering, committed: () => void): Sql {
  const rewritten = (compiled: Compiled) => tampering().rewrite?.(compiled) ?? compiled
  const through = (query: Query) =>
    createQuery((compiled) => {
      const { text, values } = rewritten(compiled)
      return atPoint({ what: 'statement' }, () => query.unsafe<object[]>(text, values) as never)
    })

  /** A compiled statement as one that was not executed yet. */
  const uncompiled = ({ text, values }: Compiled) =>
    new Statement(text.split(/\$\d+/), values, () => Promise.reject(new Error('only for a commit')))

  async function begin<T>(body: (tx: Transaction) => T | Promise<T>): Promise<Awaited<T>> {
    let outside: Compiled | null = null
    const tick = currentTick()
    const result = await atPoint({ what: 'transaction' }, () => {
      if (tick) tick.open++
      const done = inner.begin(async (tx) => {
        const commitWith = (last: Statement<unknown>) => {
          const compiled = rewritten(compile(last))
          if (tampering().lastIsOutside) outside = compiled
          else tx.commitWith(uncompiled(compiled))
        }
        const wrapped = Object.assign(through(tx), { transaction: true as const, commitWith })
        const value: Awaited<T> = await (body(wrapped) as T)
        return atPoint({ what: 'commit' }, async () => value)
      })
      return done
        .then((value) => {
          committed()
          return value
        })
        .finally(() => {
          if (tick) tick.open--
        })
    })
    const late = outside as Compiled | null
    if (late) await atPoint({ what: 'statement' }, () => inner.unsafe(late.text, late.values))
    return result
  }

  return Object.assign(through(inner), {
    begin,
    as: (environmentId: string) => faultySql(inner.as(environmentId), tampering, committed),
    reserve: () => inner.reserve(),
    listen: inner.listen,
    notify: inner.notify,
    pool: inner.pool,
    end: inner.end,
  })
}
