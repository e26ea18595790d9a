/**
 * The faults that one point of a pass can have, and where they occur.
 *
 * A point is a call of a driver, a transaction, a statement, or the moment when a worker gives its key back. A script
 * names one point of one subject (a key of the work table) by its number since the script was armed, so that the same
 * fault falls on the same place in every run.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { CapacityError, TransientError } from '../drivers/driver.ts'
import { DatabaseUnavailableError } from '../lib/errors.ts'
import { Died } from './machines.ts'

/** THE LIST of faults. */
export const FAULTS = {
  fails_before: 'It fails, and nothing has happened.',
  fails_after: 'It happens, and then something else in it fails.',
  reply_lost: 'It takes effect, and the caller gets an error.',
  times_out: 'It hangs until the lease has ended and another worker has taken over; it has no effect.',
  times_out_after: 'It hangs just so, but it has happened.',
  killed_before: 'The process dies before.',
  killed_after: 'The process dies right after.',
  run_twice: 'It is done twice.',
  refused: 'It can never succeed.',
  changed_meanwhile: 'A request changes the desired state during the step.',
} as const
export type Fault = keyof typeof FAULTS

/** `driver <call>`, or what the engine and the reconcilers do with the database. */
export type Point = `driver ${string}` | 'importer start' | 'transaction' | 'statement' | 'finish'

/** The faults that a point can have. */
export function faultsAt(point: Point): Fault[] {
  if (point === 'statement') return ['fails_before']
  if (point === 'importer start') return ['fails_before', 'fails_after']
  if (point === 'driver get' || point === 'driver list') return ['fails_before', 'times_out', 'killed_before']
  const always: Fault[] = ['fails_before', 'reply_lost', 'killed_before', 'killed_after', 'changed_meanwhile']
  return point.startsWith('driver ')
    ? [...always, 'fails_after', 'times_out', 'times_out_after', 'run_twice', 'refused']
    : always
}

/** One fault at the `nth` time (from 1) that the subject comes to the point. */
export type Script = { point: Point; nth: number; fault: Fault }

/** A key of the work table, and what is to happen to it. */
export type Subject = {
  readonly name: string
  script: Script | null
  /** How often it came to each point since it was armed. */
  met: Map<Point, number>
  fired: boolean
  /** Ends the hanging, if it hangs. */
  release: (() => void) | null
  /** Sends the other request of `changed_meanwhile`. */
  meanwhile: (() => Promise<void>) | null
  /** Called at each point while passes are recorded. */
  visited: ((point: Point) => void) | null
}

export class Faults {
  readonly #subjects = new Map<string, Subject>()
  readonly #reconciling = new AsyncLocalStorage<Subject>()
  /** Steps that hang or have died since this was last cleared: whether they still hold their key, by its name. */
  readonly lost = new Map<string, boolean>()

  /** The subject of this name, such as `instance inst_0123456789`. */
  of(name: string): Subject {
    const known = this.#subjects.get(name)
    if (known) return known
    const fresh = { fired: false, release: null, meanwhile: null, visited: null }
    const subject: Subject = { name, script: null, met: new Map(), ...fresh }
    this.#subjects.set(name, subject)
    return subject
  }

  /** From now on the subject's points are counted, and the script's fault falls once. */
  arm(name: string, script: Script | null): Subject {
    const subject = this.of(name)
    Object.assign(subject, { script, met: new Map(), fired: false })
    return subject
  }

  /** All that is done below belongs to the subject. */
  within<T>(name: string, work: () => Promise<T>): Promise<T> {
    return this.#reconciling.run(this.of(name), work)
  }

  /** For what is synchronous: throws before or after the effect. */
  atOnce<T>(point: Point, effect: () => T): T {
    const fault = this.#due(point)
    if (fault === 'fails_before') throw failure()
    const result = effect()
    if (fault === 'fails_after') throw failure()
    return result
  }

  /**
   * Does `effect`, with the fault that the script has for this point and subject.
   * @param attempt what comes instead of the effect when the process dies or the server gives up in the middle of it
   * @param name of the subject, where it is not that of the pass
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
    switch (fault) {
      case 'fails_before':
        await attempt()
        throw error()
      case 'fails_after':
        await effect()
        throw new Error('something else in it failed')
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
        return this.#die(point, subject, true)
      case 'killed_after':
        await effect()
        return this.#die(point, subject, point !== 'finish')
      case 'run_twice':
        await effect()
        return effect()
      case 'refused':
        throw new CapacityError('refused', 'The host refuses, for a test.')
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

  /** The process of this pass has ended. */
  #die(point: Point, { name }: Subject, holdsKey: boolean): Promise<never> {
    this.lost.set(name, holdsKey)
    if (point.startsWith('driver ')) throw new Died()
    return new Promise(() => {})
  }

  #due(point: Point, subject = this.#reconciling.getStore()): Fault | null {
    if (!subject) return null
    const nth = (subject.met.get(point) ?? 0) + 1
    subject.met.set(point, nth)
    subject.visited?.(point)
    const { script } = subject
    if (subject.fired || script?.point !== point || script.nth !== nth) return null
    subject.fired = true
    return script.fault
  }
}

/** Of a driver; at the database it is that there is no answer. */
const failure = () => new TransientError('unavailable', 'A fault of a test.')
export const noAnswer = () => new DatabaseUnavailableError('a fault of a test')
