type Extensions = { scope: string; retryable: boolean; alternatives: string[]; [figure: string]: unknown }

/**
 * Why a resource cannot be created or grow: domain errors, which `http/problem.ts` shows as `capacity_exhausted`. A
 * reconciler that creates resources catches them by their class.
 */
export abstract class InsufficientCapacity extends Error {
  /** `scope`, `retryable`, `alternatives` and figures, as the API shows them. */
  readonly extensions: Record<string, unknown>
  constructor(detail: string, extensions: Extensions) {
    super(detail)
    this.extensions = extensions
  }
}

/** The project would use more than its quota allows. */
export class QuotaExceeded extends InsufficientCapacity {}

/** The key would use more than its budget allows. */
export class BudgetExceeded extends InsufficientCapacity {}

/** The host has not enough vCPUs, memory, disk space or IP addresses. */
export class CapacityExhausted extends InsufficientCapacity {}
