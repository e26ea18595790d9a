/** A driver around which something happens, for tests that make its calls fail, vanish or be seen. */
import type { Driver, MachineRef, MachineSpec } from '../drivers/driver.ts'

/** The methods that read or change machines. */
export type DriverMethod =
  | 'list'
  | 'get'
  | 'create'
  | 'start'
  | 'powerDown'
  | 'kill'
  | 'resume'
  | 'resizeDisk'
  | 'setPublicAddress'
  | 'delete'
  | 'consoleLog'

/** A call as it is made; `id` is null for `list`, `run` is that of a specification. */
export type DriverCall = { method: DriverMethod; id: string | null; environment_id: string; now: Date; run?: number }

/** Carries a call out by `effect`, or does not: what it resolves or rejects with is what the caller gets. */
export type Around = <T>(call: DriverCall, effect: () => Promise<T>) => Promise<T>

/** The same driver, with `around` in the way of every call that reaches a machine. */
export function aroundDriver(driver: Driver, around: Around): Driver {
  const byRef = (method: DriverMethod, { id, environment_id, now }: MachineRef): DriverCall => {
    return { method, id, environment_id, now }
  }
  const bySpec = (method: DriverMethod, { id, environment_id, run }: MachineSpec, now: Date): DriverCall => {
    return { method, id, environment_id, now, run }
  }
  const nobody = { id: null, environment_id: '', now: new Date(0) }
  return {
    ...driver,
    list: () => around({ method: 'list', ...nobody }, () => driver.list()),
    get: (ref) => around(byRef('get', ref), () => driver.get(ref)),
    create: (spec, now) => around(bySpec('create', spec, now), () => driver.create(spec, now)),
    start: (spec, now) => around(bySpec('start', spec, now), () => driver.start(spec, now)),
    powerDown: (ref) => around(byRef('powerDown', ref), () => driver.powerDown(ref)),
    kill: (ref) => around(byRef('kill', ref), () => driver.kill(ref)),
    resume: (ref) => around(byRef('resume', ref), () => driver.resume(ref)),
    resizeDisk: (spec, now) => around(bySpec('resizeDisk', spec, now), () => driver.resizeDisk(spec, now)),
    setPublicAddress: (spec, now) =>
      around(bySpec('setPublicAddress', spec, now), () => driver.setPublicAddress(spec, now)),
    delete: (ref) => around(byRef('delete', ref), () => driver.delete(ref)),
    consoleLog: (ref, bytes) => around(byRef('consoleLog', ref), () => driver.consoleLog(ref, bytes)),
  }
}
