import type { Query } from './database.ts'

/** The time of an environment. The clock of a test environment can be frozen or advanced. */
export async function environmentNow(query: Query, environmentId: string): Promise<Date> {
  const [row] = await query<{ now: Date }[]>`select environment_now(${environmentId}) as now`
  return row!.now
}
