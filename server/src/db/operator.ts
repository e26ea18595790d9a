import type { Query } from './database.ts'

/** Whether an environment belongs to the first project, that of the operator. */
export async function belongsToOperator(query: Query, environmentId: string): Promise<boolean> {
  const [row] = await query<{ belongs: boolean }[]>`select belongs_to_operator(${environmentId}) as belongs`
  return row!.belongs
}
