/**
 * The simulated hypervisor: the same lifecycles, timings and failures as a real one, and no host resources.
 *
 * It is a product: test keys run on it. Its world is a table, so a restart of the control plane changes nothing, and
 * its only time is the `now` of the environment that each call brings: a frozen clock freezes its machines. A machine
 * is never changed by a timer; what time has done to it (booted, powered off, failed) is computed when it is looked
 * at. How long things take comes from a seed, so that a history can be repeated.
 */
import type { Sql } from '../../db/database.ts'
import {
  CapacityError,
  type Driver,
  InvalidSpecError,
  type MachinePower,
  type MachineRef,
  type MachineSpec,
  NotFoundError,
  type ObservedMachine,
  TransientError,
  type Trouble,
} from '../driver.ts'
import {
  bootSeconds,
  FAILS_AFTER_SECONDS,
  type Failure,
  type Fault,
  failureOf,
  faultOf,
  POWER_OFF_SECONDS,
} from './timing.ts'

/** What the table keeps of one machine, which may have been written by an older release; times are ISO texts of the environment's clock. */
export type Machine = {
  disk: number
  run: number
  power: MachinePower
  started_at: string | null
  /** When the guest of this run says that it is up; null: never. */
  ready_at: string | null
  /** When it will be off, because it was asked, or will fail, because it was told to. */
  off_at: string | null
  crash_at: string | null
  /** How it fails at `crash_at`; left out: its process dies. */
  crash_as?: Failure | null
  /** What has failed, and when. */
  trouble?: Trouble | null
  down_since?: string | null
  /** The boot of the host that it was started in. */
  boot?: string
  vcpus: number
  memory_bytes: number
  disk_bytes: number
  public_ip: string | null
  ports: number[]
  fault: Fault | null
}

/**
 * @param seed makes the durations of this installation its own, and repeatable
 * @param boot names the present boot of the simulated host: with a new name, all that ran is gone
 */
export function createSimulatedDriver(options: { sql: Sql; seed: number; boot?: () => string }): Driver {
  const { sql, seed, boot = () => 'simulated' } = options
  const load = async ({ id, environment_id }: Omit<MachineRef, 'now'>): Promise<Machine | null> => {
    const [row] = await sql.as(environment_id)<{ machine: Machine }[]>`
      select machine from simulated_machines where id = ${id}`
    return row?.machine ?? null
  }
  /** True while the claim is the newest one, and until the statement's end it stays so. */
  const isNewest = (id: string, lease: number | undefined) =>
    lease === undefined
      ? sql`true`
      : sql`exists (select from work where kind = 'instance' and id = ${id} and lease = ${lease} for share)`
  async function save({ id, environment_id, lease }: Omit<MachineRef, 'now'>, machine: Machine): Promise<void> {
    const { count } = await sql.as(environment_id)`
      insert into simulated_machines (id, environment_id, machine)
      select ${id}, ${environment_id}, ${sql.json(machine)}::jsonb where ${isNewest(id, lease)}
      on conflict (id) do update set machine = excluded.machine`
    if (count === 0) throw new TransientError('superseded', 'A newer claim has taken over the machine.')
  }

  const watchers: ((id: string) => void)[] = []

  /** Edits a machine as it is now; false when there is none. */
  async function change(ref: MachineRef, edit: (machine: Machine) => Machine): Promise<boolean> {
    const machine = await load(ref)
    if (!machine) return false
    const settled = machineAt(machine, ref.now, boot())
    const edited = edit(settled)
    if (edited === settled) return true
    await save(ref, edited)
    for (const changed of watchers) changed(ref.id)
    return true
  }

  return {
    name: 'simulated',
    resync_seconds: 3600,
    hypervisor: () => ({ name: 'simulated', accelerator: 'none', reason: 'Test environments use simulated machines.' }),
    capacity: () => null,
    list: async () => await sql<{ id: string }[]>`select id from simulated_machines`,

    async get(ref) {
      const stored = await load(ref)
      if (!stored) return null
      return describe(ref.id, machineAt(stored, ref.now, boot()), ref.now, boot())
    },

    async create(spec) {
      if (faultOf(spec.tags) === 'create_fails') {
        throw new InvalidSpecError('simulated_failure', 'The tags of the instance request a failed creation.')
      }
      if (faultOf(spec.tags) === 'no_capacity') {
        throw new CapacityError('host_full', 'The tags of the instance request a host without capacity.')
      }
      const existing = await load(spec)
      if (existing?.disk === spec.disk) return
      const on = existing?.power === 'running' || existing?.power === 'paused'
      if (on) throw new TransientError('still_running', 'The machine of an older disk is still running.')
      await save(spec, {
        disk: spec.disk,
        run: 0,
        power: 'stopped',
        started_at: null,
        ready_at: null,
        off_at: null,
        crash_at: null,
        vcpus: spec.vcpus,
        memory_bytes: spec.memory_bytes,
        disk_bytes: spec.disk_bytes,
        public_ip: null,
        ports: [],
        fault: faultOf(spec.tags),
      })
    },

    async start(spec, now) {
      const found = await change({ ...spec, now }, (machine) => {
        const on = machine.power === 'running' || machine.power === 'paused'
        if (on && machine.run === spec.run) return machine
        if (on) throw new TransientError('still_running', 'An older run is still running.')
        const takes = bootSeconds(seed, spec.id, spec.run)
        const neverReady = machine.fault === 'never_ready'
        const fails = failureOf(machine.fault, machine.run === 0)
        return {
          ...machine,
          ...sizeOf(spec, machine),
          power: 'running',
          run: spec.run,
          started_at: now.toISOString(),
          ready_at: neverReady ? null : after(now, takes),
          off_at: machine.fault === 'guest_powers_off' ? after(now, takes + 30) : null,
          crash_at: fails ? after(now, takes + FAILS_AFTER_SECONDS) : null,
          crash_as: fails,
          trouble: null,
          down_since: null,
          boot: boot(),
          public_ip: spec.network.public_ip,
          ports: spec.network.public_ip ? spec.network.ports : [],
        }
      })
      if (!found)
        throw new NotFoundError(
          'disk_lost',
          'The disk of the machine is missing. Rebuild the instance to create a new disk.',
        )
    },

    powerDown: async (ref) => {
      await change(ref, (machine) => {
        const deaf = machine.fault === 'ignores_power_down' || machine.trouble === 'hang'
        if (machine.power !== 'running' || deaf) return machine
        const off = after(ref.now, POWER_OFF_SECONDS)
        return machine.off_at && machine.off_at <= off ? machine : { ...machine, off_at: off }
      })
    },

    kill: async (ref) => {
      await change(ref, (machine) =>
        machine.power === 'running' || machine.power === 'paused' ? ended(machine, 'stopped') : machine,
      )
    },

    resume: async (ref) => {
      await change(ref, (machine) => {
        if (machine.power !== 'paused' || machine.trouble !== 'disk_error') return machine
        return { ...machine, power: 'running', trouble: null, down_since: null }
      })
    },

    resizeDisk: async (spec, now) => {
      await change({ ...spec, now }, (machine) => {
        if (machine.power === 'running') throw new TransientError('still_running', 'The machine is still running.')
        return { ...machine, disk_bytes: Math.max(machine.disk_bytes, spec.disk_bytes) }
      })
    },

    setPublicAddress: async (spec, now) => {
      await change({ ...spec, now }, (machine) => ({
        ...machine,
        public_ip: spec.network.public_ip,
        ports: spec.network.public_ip ? spec.network.ports : [],
      }))
    },

    async delete(ref) {
      // An orphan's environment is not known to the sweep that removes it.
      const query = ref.environment_id === '' ? sql : sql.as(ref.environment_id)
      await query`delete from simulated_machines where id = ${ref.id} and ${isNewest(ref.id, ref.lease)}`
    },

    async consoleLog(ref, tailBytes) {
      const stored = await load(ref)
      if (!stored?.started_at) return new Uint8Array()
      const machine = machineAt(stored, ref.now, boot())
      const lines = [`[${machine.started_at}] simulated machine ${ref.id}: run ${machine.run} started`]
      if (machine.ready_at && machine.ready_at <= ref.now.toISOString()) {
        lines.push(`[${machine.ready_at}] simulated machine ${ref.id}: guest is ready`)
      }
      if (machine.power !== 'running') lines.push(`simulated machine ${ref.id}: ${machine.power}`)
      return Buffer.from(`${lines.join('\n')}\n`).subarray(-tailBytes)
    },

    watch: (changed) => void watchers.push(changed),
    async adopt() {},
    async close() {},
  }
}

/** What time, and a reboot of the host, have done to a machine until `now`. */
function machineAt(machine: Machine, now: Date, boot: string): Machine {
  const on = machine.power === 'running' || machine.power === 'paused'
  if (on && machine.boot !== undefined && machine.boot !== boot) return failed(machine, 'host_reboot', null)
  if (machine.power !== 'running') return machine
  const at = now.toISOString()
  const { off_at, crash_at } = machine
  // What comes first decides: one that is off fails no more.
  const failsFirst = crash_at !== null && (off_at === null || crash_at <= off_at)
  if (failsFirst && crash_at <= at) return failed(machine, machine.crash_as ?? 'crash', crash_at)
  if (off_at !== null && off_at <= at) return ended(machine, 'off')
  return machine
}

/** The machine after it went down by itself. */
export function failed(machine: Machine, as: Failure, since: string | null): Machine {
  const down = { down_since: since, trouble: as === 'crash' ? null : as }
  if (as === 'crash' || as === 'host_reboot') return { ...ended(machine, 'crashed'), ...down }
  return { ...machine, ...down, power: as === 'hang' ? 'running' : 'paused', crash_at: null, off_at: null }
}

const ended = (machine: Machine, power: MachinePower): Machine => ({
  ...machine,
  power,
  trouble: null,
  down_since: null,
  ready_at: null,
  off_at: null,
  crash_at: null,
  public_ip: null,
  ports: [],
})

function sizeOf(spec: MachineSpec, machine: Machine): Pick<Machine, 'vcpus' | 'memory_bytes' | 'disk_bytes'> {
  const disk_bytes = Math.max(machine.disk_bytes, spec.disk_bytes)
  return { vcpus: spec.vcpus, memory_bytes: spec.memory_bytes, disk_bytes }
}

function describe(id: string, machine: Machine, now: Date, boot: string): ObservedMachine {
  return {
    id,
    power: machine.power,
    disk: machine.disk,
    run: machine.run,
    ready: machine.power === 'running' && machine.ready_at !== null && machine.ready_at <= now.toISOString(),
    started_at: machine.started_at ? new Date(machine.started_at) : null,
    vcpus: machine.vcpus,
    memory_bytes: machine.memory_bytes,
    disk_bytes: machine.disk_bytes,
    public_ip: machine.public_ip,
    ports: machine.ports.map((port) => ({ guest_port: port, host_port: port })),
    trouble: machine.trouble ?? null,
    down_since: machine.down_since ? new Date(machine.down_since) : null,
    host_boot: boot,
    changes_at: nextChange(machine, now),
  }
}

function nextChange(machine: Machine, now: Date): Date | null {
  if (machine.power !== 'running') return null
  const times = [machine.ready_at, machine.off_at, machine.crash_at]
  const ahead = times.filter((time) => time !== null).filter((time) => time > now.toISOString())
  return ahead.length > 0 ? new Date(ahead.sort()[0]!) : null
}

const after = (now: Date, seconds: number): string => new Date(now.getTime() + seconds * 1000).toISOString()
