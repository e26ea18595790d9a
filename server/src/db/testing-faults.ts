/** A database around whose transactions and statements something may happen, for tests of crashes between them. */
import type { Sql } from './database.ts'
import { type Compiled, type Query, Statement } from './sql.ts'

export type SqlFaults = {
  /** Around a transaction: `effect` runs and commits it, or, given `false`, does everything and rolls back. */
  transaction<T>(effect: (commits: boolean) => Promise<T>): Promise<T>
  /** Around a statement outside of transactions; `effect` carries out this one, or another. */
  statement<T>(compiled: Compiled, effect: (other?: Compiled) => Promise<T>): Promise<T>
}

class RolledBack extends Error {}

/** The same connections, with these faults. */
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
