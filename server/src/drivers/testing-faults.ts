/** A driver around whose calls something may happen, for tests of what a reconciler does when one goes wrong. */
import type { Driver } from './driver.ts'
import { KeyedLock } from './qemu/keyed-lock.ts'

/** The methods by which a driver touches machines; the others tell, or belong to the start and end of a process. */
export const CALLS = [
  'list',
  'get',
  'create',
  'start',
  'powerDown',
  'kill',
  'resume',
  'resizeDisk',
  'setPublicAddress',
  'delete',
] as const
export type DriverCall = (typeof CALLS)[number]

/** @param id of the machine; empty for `list` @param effect the real call, which may be made any number of times */
export type Around = <T>(call: DriverCall, id: string, effect: () => Promise<T>) => Promise<T>

/** Thrown around a call in which the process dies: who called never hears of it, and holds nothing up. */
export class Died extends Error {}

/** As a real driver does it, calls for one machine are made one after the other: one that hangs holds up the next. */
export function faultyDriver(driver: Driver, around: Around): Driver {
  const locks = new KeyedLock()
  const wrapped: Record<string, unknown> = {}
  for (const call of CALLS) {
    wrapped[call] = (...args: { id: string }[]) => {
      const id = args[0]?.id ?? ''
      const effect = () => (driver[call] as (...args: unknown[]) => Promise<unknown>).apply(driver, args)
      return locks
        .run(`${call === 'list'} ${id}`, () => around(call, id, effect))
        .catch((error) => (error instanceof Died ? new Promise(() => {}) : Promise.reject(error)))
    }
  }
  return Object.assign(Object.create(driver) as Driver, wrapped)
}
