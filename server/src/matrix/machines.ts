/** A driver as a real one behaves to a worker that hangs or dies in the middle of a call. */
import type { Driver } from '../drivers/driver.ts'
import { KeyedLock } from '../drivers/qemu/keyed-lock.ts'
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

/** Thrown around a call in which the process dies: who called never hears of it, and holds nothing up. */
export class Died extends Error {}

/** Calls for one machine are made one after the other: one that hangs holds up the next. */
export function lockedDriver(driver: Driver, around: Around): Driver {
  const locks = new KeyedLock()
  return aroundDriver(driver, (call, effect) =>
    locks
      .run(String(call.id), () => around(call, effect))
      .catch((error) => (error instanceof Died ? new Promise(() => {}) : Promise.reject(error))),
  )
}
