import { createEngine, type Engine, type EngineOptions, type Reconcilers } from './loop.ts'

/** Kinds that share worker slots. They never occupy the slots of other pools. */
export type Pool = { reconcilers: Reconcilers; concurrency?: number }

/** One engine per pool, on the same work table, combined into one. */
export function createEngines(options: Omit<EngineOptions, 'reconcilers' | 'concurrency'>, pools: Pool[]): Engine {
  const engines = pools.map((pool) => createEngine({ ...options, ...pool }))
  return {
    start: async () => void (await Promise.all(engines.map((engine) => engine.start()))),
    nudge: () => engines.forEach((engine) => void engine.nudge()),
    stop: async (deadlineMs) => void (await Promise.all(engines.map((engine) => engine.stop(deadlineMs)))),
    problem: () => engines.map((engine) => engine.problem()).find((problem) => problem !== null) ?? null,
  }
}
