/**
 * The simulated hypervisor of the test environments: the lifecycle, timing and failures of a real hypervisor without its
 * host resources.
 *
 * Its machines are rows of a table, so a restart of the control plane changes nothing. Its only clock is the `now` of the
 * environment that each call passes: a frozen clock freezes its machines. No timer changes a machine; every read
 * computes what time has changed (booted, powered off, failed). Durations derive from a seed, so that a history can be
 * repeated.
 */
import type { Sql } from '../../db/database.ts'
import {
  CapacityError,
  type Driver,
  InvalidSpecError,
  type MachineRef,
  NotFoundError,
  TransientError,
} from '../driver.ts'
import {
  addressOf,
  consoleText,
  createdMachine,
  ended,
  isOn,
  type Machine,
  machineAt,
  observe,
  poweringDown,
  resumed,
  startedMachine,
  withDiskSize,
} from './machine.ts'
import { createMachineStore } from './store.ts'
import { faultOf } from './timing.ts'

/**
 * @param seed determines the durations
 * @param boot returns the boot ID of the simulated host; when it changes, all running machines have ended
 */
export function createSimulatedDriver(options: { sql: Sql; seed: number; boot?: () => string }): Driver {
  const { sql, seed, boot = () => 'simulated' } = options
  const store = createMachineStore(sql)
  const watchers: ((id: string) => void)[] = []

  /** Changes a machine; returns false if it does not exist. */
  async function update(ref: MachineRef, change: (machine: Machine) => Machine): Promise<boolean> {
    const stored = await store.load(ref)
    if (!stored) return false
    const machine = machineAt(stored, ref.now, boot())
    const changed = change(machine)
    if (changed === machine) return true
    await store.save(ref, changed)
    for (const notify of watchers) notify(ref.id)
    return true
  }

  return {
    name: 'simulated',
    resync_seconds: 3600,
    hypervisor: () => ({ name: 'simulated', accelerator: 'none', reason: 'Test environments use simulated machines.' }),
    isolation: () => null,
    capacity: () => null,
    list: store.list,
    async get(ref) {
      const stored = await store.load(ref)
      return stored && observe(ref.id, machineAt(stored, ref.now, boot()), ref.now, boot())
    },
    async create(spec) {
      rejectByFault(spec.tags)
      const existing = await store.load(spec)
      if (existing?.disk === spec.disk) return
      if (existing && isOn(existing))
        throw new TransientError('still_running', 'The machine of an older disk is still running.')
      await store.save(spec, createdMachine(spec))
    },
    async start(spec, now) {
      const found = await update({ ...spec, now }, (machine) => startedMachine(machine, spec, now, seed, boot()))
      if (found) return
      const message = 'The disk of the machine is missing. Rebuild the instance to create a new disk.'
      throw new NotFoundError('disk_lost', message)
    },
    powerDown: async (ref) => void (await update(ref, (machine) => poweringDown(machine, ref.now))),
    kill: async (ref) => void (await update(ref, (machine) => (isOn(machine) ? ended(machine, 'stopped') : machine))),
    resume: async (ref) => void (await update(ref, resumed)),
    resizeDisk: async (spec, now) =>
      void (await update({ ...spec, now }, (machine) => withDiskSize(machine, spec.disk_bytes))),
    setPublicAddress: async (spec, now) =>
      void (await update({ ...spec, now }, (machine) => ({ ...machine, ...addressOf(spec) }))),
    delete: (ref) => store.remove(ref),
    async consoleLog(ref, tailBytes) {
      const stored = await store.load(ref)
      if (!stored?.started_at) return new Uint8Array()
      return Buffer.from(consoleText(ref, machineAt(stored, ref.now, boot()))).subarray(-tailBytes)
    },
    watch: (changed) => void watchers.push(changed),
    async adopt() {},
    async close() {},
  }
}

function rejectByFault(tags: Record<string, string>): void {
  const fault = faultOf(tags)
  if (fault === 'create_fails')
    throw new InvalidSpecError('simulated_failure', 'The tags of the instance request a failed creation.')
  if (fault === 'no_capacity')
    throw new CapacityError('host_full', 'The tags of the instance request a host without capacity.')
}
