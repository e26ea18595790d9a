/** A driver that behaves like a real one to a worker that hangs or is killed in the middle of a call. */
import type { Driver } from '../drivers/driver.ts'
import { KeyedLock } from '../lib/keyed-lock.ts'
import { type Around, aroundDriver, type DriverMethod } from '../testing/faulty-driver.ts'

/** The calls that reconcilers make. */
export const CALLS = Object.keys({
  list: true,
  get: true,
  create: true,
  start: true,
  powerDown: true,
  kill: true,
  resume: true,
  resizeDisk: true,
  setPublicAddress: true,
  delete: true,
} satisfies Record<Exclude<DriverMethod, 'consoleLog'>, true>)

/** Thrown at a call in which the process is killed: the call never returns, and delays no other. */
export class ProcessKilled extends Error {}

/** Serializes the calls for one machine: a call that hangs delays the next one. */
export function lockedDriver(driver: Driver, around: Around): Driver {
  const locks = new KeyedLock()
  return aroundDriver(driver, (call, effect) =>
    locks
      .run(String(call.id), () => around(call, effect))
      .catch((error) => (error instanceof ProcessKilled ? new Promise(() => {}) : Promise.reject(error))),
  )
}
