/** A database with injected faults around transactions and statements, for tests of crashes between them. */
import type { Sql } from '../db/database.ts'
import { type Compiled, type Query, Statement } from '../db/sql.ts'

export type SqlFaults = {
  /** Wraps a transaction: `effect` runs and commits it; `effect(false)` runs it and rolls back. */
  transaction<T>(effect: (commits: boolean) => Promise<T>): Promise<T>
  /** Wraps a statement outside transactions; `effect` executes it, or another one. */
  statement<T>(compiled: Compiled, effect: (other?: Compiled) => Promise<T>): Promise<T>
}

class RolledBack extends Error {}

/** The same connections with injected faults. */
export function faultySql(sql: Sql, faults: SqlFaults): Sql {
  const query = (first: TemplateStringsArray, ...values: unknown[]) => {
    const made = (sql as (...args: unknown[]) => unknown)(first, ...values)
    if (!(made instanceof Statement)) return made
    const effect = async (other?: Compiled) =>
      (other ? await sql.unsafe(other.text, other.values) : await made) as never
    return new Statement(made.strings, made.values, (compiled) => faults.statement(compiled, effect))
  }
  const begin: Sql['begin'] = (body) =>
    faults.transaction(async (commits) => {
      let result: unknown
      const done = sql.begin(async (tx) => {
        result = await body(tx)
        if (!commits) throw new RolledBack()
      })
      await done.catch((error) => {
        if (!(error instanceof RolledBack)) throw error
      })
      return result as never
    })
  return Object.assign(query as Query, sql, {
    json: sql.json,
    begin,
    as: (environmentId: string) => faultySql(sql.as(environmentId), faults),
  })
}
