/**
 * The faults that one point of a pass can have, and where they occur.
 *
 * A point is a driver call, a transaction, a statement, or the release of a claim. A script names one point of one subject (a
 * key of the work table) by its number since the script was armed, so a fault occurs at the same place in every run.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { CapacityError, TransientError } from '../drivers/driver.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { ProcessKilled } from './machines.ts'

/** THE LIST of faults. */
export const FAULTS = {
  fails_before: 'It fails and has no effect.',
  fails_after: 'It takes effect, and a later part of it fails.',
  reply_lost: 'It takes effect, and the caller gets an error.',
  times_out: 'It hangs until the lease has ended and another worker has taken over; it has no effect.',
  times_out_after: 'It takes effect, and then hangs in the same way.',
  killed_before: 'The process is killed before it.',
  killed_after: 'The process is killed immediately after it.',
  run_twice: 'It is executed twice.',
  refused: 'It can never succeed.',
  no_descriptors: 'The host has no free descriptors (EMFILE), so it has no effect and says nothing.',
  no_memory: 'The host has no memory (ENOMEM).',
  no_access: 'The host denies access (EACCES).',
  changed_meanwhile: 'A request changes the desired state during the step.',
} as const
export type Fault = keyof typeof FAULTS

/** `driver <call>`, or an access of the engine or a reconciler to the database. */
export type Point = `driver ${string}` | 'importer start' | 'transaction' | 'statement' | 'finish'

/** Errors of the system at a check of /proc, a file or a socket. None of them means that something is gone. */
const HOST_ERRORS = { no_descriptors: 'EMFILE', no_memory: 'ENOMEM', no_access: 'EACCES' } as const
const HOST_FAULTS = Object.keys(HOST_ERRORS) as (keyof typeof HOST_ERRORS)[]

/** The faults that a point can have. */
export function faultsAt(point: Point): Fault[] {
  if (point === 'statement') return ['fails_before']
  if (point === 'importer start') return ['fails_before', 'fails_after', ...HOST_FAULTS]
  if (point === 'driver get' || point === 'driver list')
    return ['fails_before', 'times_out', 'killed_before', ...HOST_FAULTS]
  const always: Fault[] = ['fails_before', 'reply_lost', 'killed_before', 'killed_after', 'changed_meanwhile']
  return point.startsWith('driver ')
    ? [...always, 'fails_after', 'times_out', 'times_out_after', 'run_twice', 'refused', 'no_descriptors']
    : always
}

/** One fault at the `nth` time (from 1) that the subject reaches the point. */
export type Script = { point: Point; nth: number; fault: Fault }

/** A key of the work table, and its script. */
export type Subject = {
  readonly name: string
  script: Script | null
  /** How often it has reached each point since it was armed. */
  reached: Map<Point, number>
  fired: boolean
  /** Lets the step continue; null unless it hangs. */
  release: (() => void) | null
  /** Sends the other request of `changed_meanwhile`. */
  meanwhile: (() => Promise<void>) | null
  /** Called at each point while passes are recorded. */
  visited: ((point: Point) => void) | null
}

export class Faults {
  readonly #subjects = new Map<string, Subject>()
  readonly #reconciling = new AsyncLocalStorage<Subject>()
  /** Steps that hang or were killed since this was last cleared: whether they still hold their key, by its name. */
  readonly lost = new Map<string, boolean>()

  /** The subject of this name, such as `instance inst_0123456789`. */
  of(name: string): Subject {
    const known = this.#subjects.get(name)
    if (known) return known
    const fresh = { fired: false, release: null, meanwhile: null, visited: null }
    const subject: Subject = { name, script: null, reached: new Map(), ...fresh }
    this.#subjects.set(name, subject)
    return subject
  }

  /** Starts to count the subject's points. The script's fault occurs once. */
  arm(name: string, script: Script | null): Subject {
    const subject = this.of(name)
    Object.assign(subject, { script, reached: new Map(), fired: false })
    return subject
  }

  /** Everything that `work` does belongs to the subject. */
  within<T>(name: string, work: () => Promise<T>): Promise<T> {
    return this.#reconciling.run(this.of(name), work)
  }

  /** A synchronous point: throws before or after the effect. */
  atSync<T>(point: Point, effect: () => T): T {
    const fault = this.#due(point)
    if (fault === 'fails_before') throw failure()
    if (isHostFault(fault)) throw hostError(fault)
    const result = effect()
    if (fault === 'fails_after') throw failure()
    return result
  }

  /**
   * Executes `effect` with the fault that the script has for this point and subject.
   * @param attempt replaces the effect when the process or the server ends in the middle of it
   * @param name the subject, if it is not that of the pass
   */
  async at<T>(
    point: Point,
    effect: () => Promise<T>,
    options: { attempt?: () => Promise<unknown>; name?: string; error?: () => Error } = {},
  ): Promise<T> {
    const subject = options.name === undefined ? this.#reconciling.getStore() : this.of(options.name)
    const fault = subject && this.#due(point, subject)
    const { attempt = async () => {}, error = failure } = options
    if (!subject || !fault) return effect()
    if (isHostFault(fault)) throw hostError(fault)
    switch (fault) {
      case 'fails_before':
        await attempt()
        throw error()
      case 'fails_after':
        await effect()
        throw new Error('a later part failed')
      case 'reply_lost':
        await effect()
        throw error()
      case 'times_out':
        await this.#hang(subject)
        throw error()
      case 'times_out_after':
        await effect()
        await this.#hang(subject)
        throw error()
      case 'killed_before':
        await attempt()
        return this.#kill(point, subject, true)
      case 'killed_after':
        await effect()
        return this.#kill(point, subject, point !== 'finish')
      case 'run_twice':
        await effect()
        return effect()
      case 'refused':
        throw new CapacityError('refused', 'A fault of a test.')
      case 'changed_meanwhile':
        await this.#reconciling.exit(() => subject.meanwhile!())
        return effect()
    }
  }

  #hang(subject: Subject): Promise<void> {
    this.lost.set(subject.name, true)
    return new Promise((resolve) => {
      subject.release = () => {
        subject.release = null
        this.lost.delete(subject.name)
        resolve()
      }
    })
  }

  /** Ends the process of this pass. */
  #kill(point: Point, { name }: Subject, holdsKey: boolean): Promise<never> {
    this.lost.set(name, holdsKey)
    if (point.startsWith('driver ')) throw new ProcessKilled()
    return new Promise(() => {})
  }

  #due(point: Point, subject = this.#reconciling.getStore()): Fault | null {
    if (!subject) return null
    const nth = (subject.reached.get(point) ?? 0) + 1
    subject.reached.set(point, nth)
    subject.visited?.(point)
    const { script } = subject
    if (subject.fired || script?.point !== point || script.nth !== nth) return null
    subject.fired = true
    return script.fault
  }
}

const isHostFault = (fault: Fault | null): fault is keyof typeof HOST_ERRORS => fault !== null && fault in HOST_ERRORS

const hostError = (fault: keyof typeof HOST_ERRORS) =>
  Object.assign(new Error(`${HOST_ERRORS[fault]}: a fault of a test`), { code: HOST_ERRORS[fault] })

/** The error of a driver call. */
const failure = () => new TransientError('unavailable', 'A fault of a test.')
/** The error of an access to the database. */
export const noResponse = () => new DatabaseUnavailableError('a fault of a test')
