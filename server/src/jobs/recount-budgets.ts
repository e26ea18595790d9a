import { recountBudgets } from '../budgets/store.ts'
import type { Deps } from '../deps.ts'
import type { PeriodicJob } from '../engine/periodic.ts'

/** Corrects budgets whose usage differs from the sum of their instances. Returns how many. */
export function recountBudgetsJob({ sql }: Deps): PeriodicJob {
  return { interval_seconds: 600, run: () => recountBudgets(sql) }
}
