/**
 * Machines as QEMU processes on this host. The driver keeps no state of its own: files record what was created and
 * started, the kernel which processes are alive, and QEMU the state of a guest. Every method first reads all three
 * (machine.ts), so the control plane can be killed at any line and the next one observes the same state. Calls for one
 * machine run in order, calls for different machines concurrently. A data folder belongs to one control plane.
 */
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { isId } from '../../lib/id.ts'
import { KeyedLock } from '../../lib/keyed-lock.ts'
import { hostBootId } from '../../lib/processes.ts'
import type { Capacity, Driver, Hypervisor, Isolation, MachineRef, MachineSpec, ObservedMachine } from '../driver.ts'
import { DamagedDiskError, InvalidSpecError, NotFoundError, TransientError } from '../driver.ts'
import { buildMachine, findDamage, growDisk } from './build.ts'
import { readTail } from './console-log.ts'
import { isNearlyFull } from './disk.ts'
import type { Egress } from './egress.ts'
import type { Host, QemuOptions } from './host.ts'
import { isReachable } from './launch.ts'
import {
  CONTROL_MS,
  endProcess,
  findMachine,
  findMachineToDelete,
  type Machine,
  observe,
  runningForwards,
  withControl,
} from './machine.ts'
import {
  checkRoots,
  instancesFolder,
  type MachineFile,
  machinePaths,
  type RunFile,
  scratchName,
  scratchOwner,
  syncFolder,
  writeJson,
} from './machine-files.ts'
import { Monitors } from './monitors.ts'
import { openUplink } from './network/uplink.ts'
import { userNetwork } from './network/user.ts'
import { Output } from './output.ts'
import { findMachineProcesses } from './process.ts'
import { startMachine } from './start.ts'

const MAX_CONCURRENT_ADOPTIONS = 8
const UPKEEP_MS = 10_000
/** A guest writes at most a few hundred MiB in this time. */
const DISK_GUARD_MS = 500

export class QemuDriver implements Driver {
  readonly name = 'qemu'
  readonly resync_seconds = 30
  readonly #host: Host
  readonly #locks = new KeyedLock()
  readonly #monitors: Monitors
  /** Machines that ended while no control plane ran; announced to the first watcher. */
  readonly #lost: string[] = []
  #changed: (id: string) => void = () => {}
  #upkeep: { cancel(): void } | null = null
  #diskGuard: { cancel(): void } | null = null
  #closed = false

  constructor(options: QemuOptions) {
    checkRoots(options)
    if (!/^[a-z0-9][a-z0-9-]{0,31}$/.test(options.installation_id)) throw new Error('installation_id is malformed')
    this.#host = { ...options, network: networkOf(options), output: new Output(options.log) }
    this.#monitors = new Monitors(this.#host, (id) => this.#changed(id))
  }

  hypervisor(): Hypervisor {
    const { accelerator, service_uid, scope } = this.#host
    const user =
      service_uid === null ? 'machines run as the user of the control plane' : 'each machine runs as a separate user'
    return { ...accelerator, reason: `${accelerator.reason}; ${user}, ${scope.reason}` }
  }

  isolation(): Isolation {
    const { egress, scope } = this.#host
    const process_limits = scope.limits
    return egress.unfiltered_reason === null
      ? { egress: 'filtered', process_limits, reason: filterReason(egress) }
      : {
          egress: 'unfiltered',
          process_limits,
          reason: `what guests send is not filtered: ${egress.unfiltered_reason}`,
        }
  }

  capacity(): Capacity {
    return this.#host.limits
  }

  async list(): Promise<{ id: string }[]> {
    const folders = (await readdir(instancesFolder(this.#host))).filter((name) => isId('inst', name))
    return [...new Set([...folders, ...(await this.#processIds())])].sort().map((id) => ({ id }))
  }

  get({ id }: MachineRef): Promise<ObservedMachine | null> {
    return this.#locked(id, async (found) => {
      if (!found) return null
      if (found.process) this.#monitors.attach(id, found.paths, found.process)
      return observe(id, found, () => this.#monitors.monitorState(id), this.#host)
    })
  }

  create(spec: MachineSpec): Promise<void> {
    return this.#locked(spec.id, async (found) => {
      if (found?.machine?.disk === spec.disk) return
      if (found?.process) throw stillRunning(spec.id)
      if (found?.machine && found.machine.disk > spec.disk) throw stale(spec.id)
      // One build at a time, because builds allocate user numbers.
      await this.#locks.run('build', () => buildMachine(this.#host, spec, found?.machine ?? null))
    })
  }

  start(spec: MachineSpec, now: Date): Promise<void> {
    return this.#locked(
      spec.id,
      async (found) => {
        if (!found?.machine) throw missing(spec.id)
        if (found.machine.disk !== spec.disk) throw stale(spec.id)
        // A run is started once, even if it has ended since: a retry is a new run.
        if (found.run && found.run.run === spec.run && found.run.disk === spec.disk) return
        if (found.run && found.run.run > spec.run) throw stale(spec.id)
        if (found.process) throw stillRunning(spec.id)
        await this.#checkAfterReboot(found.machine, found.run)
        const { child, identity, messages } = await startMachine(this.#host, spec, found.machine, now)
        child.once('exit', () => this.#childEnded(spec.id))
        this.#monitors.attach(spec.id, found.paths, identity, messages)
        await this.#reconcileForwards()
      },
      true,
    )
  }

  powerDown({ id }: MachineRef): Promise<void> {
    return this.#locked(id, async (found) => {
      if (!found?.process) return
      const powerDown = withControl(found.paths, this.#host.clock, (client) =>
        client.execute('system_powerdown', {}, CONTROL_MS),
      )
      if (!(await powerDown))
        throw new TransientError('no_answer', 'The machine does not respond yet.', `no QMP: ${id}`)
    })
  }

  kill({ id }: MachineRef): Promise<void> {
    return this.#locked(
      id,
      async (found) => {
        if (found?.process) await endProcess(found, 'stopped', this.#host)
      },
      true,
    )
  }

  resume({ id }: MachineRef): Promise<void> {
    return this.#locked(id, async (found) => {
      if (!found?.process) return
      const resumed = await withControl(found.paths, this.#host.clock, async (client) => {
        const { status } = (await client.execute('query-status', {}, CONTROL_MS)) as { status?: string }
        if (status !== 'io-error' && status !== 'paused') return
        await client.execute('cont', {}, CONTROL_MS)
        this.#monitors.recordResume(id)
      })
      if (!resumed) throw new TransientError('no_answer', 'The machine does not respond yet.', `no QMP: ${id}`)
    })
  }

  resizeDisk(spec: MachineSpec): Promise<void> {
    return this.#locked(spec.id, async (found) => {
      if (!found?.machine) throw missing(spec.id)
      if (found.process) throw stillRunning(spec.id)
      if (spec.disk_bytes < found.machine.disk_bytes)
        throw new InvalidSpecError('disk_cannot_shrink', 'A disk cannot shrink.')
      await growDisk(this.#host, found.machine, spec.disk_bytes)
    })
  }

  setPublicAddress(spec: MachineSpec): Promise<void> {
    return this.#locked(spec.id, async (found) => {
      const { paths, process, run } = found ?? {}
      // A stopped machine gets its address at its next start.
      if (!paths || !process || !run) return
      const { public_ip, ports } = spec.network
      const forwarded = run.ports.map((port) => port.guest_port).join()
      const wanted = public_ip === null ? '' : [...new Set(ports)].sort((a, b) => a - b).join()
      if (run.public_ip === public_ip && forwarded === wanted) return
      const { clock, network } = this.#host
      const changed = await withControl(paths, clock, async (client) => {
        if (run.public_ip !== null) await network.remove(client, run.public_ip, run.ports)
        await writeJson(paths.run_file, { ...run, public_ip: null, ports: [] })
        await this.#reconcileForwards()
        if (public_ip === null) return
        const added = await network.add(client, public_ip, ports)
        await writeJson(paths.run_file, { ...run, public_ip, ports: added })
        await this.#reconcileForwards()
      })
      if (!changed) throw new TransientError('no_answer', 'The machine does not respond yet.', `no QMP: ${spec.id}`)
    })
  }

  delete({ id }: MachineRef): Promise<void> {
    return this.#locks.run(id, async () => {
      const found = await findMachineToDelete(this.#host, id)
      this.#monitors.remove(id)
      if (found?.process) await endProcess(found, 'stopped', this.#host)
      const { directory, sockets } = machinePaths(this.#host, id)
      await rm(sockets, { recursive: true, force: true })
      // The rename is atomic; the sweep removes what a crash leaves behind.
      if (found?.machine) await rename(directory, scratchName(directory, 'old'))
      await rm(directory, { recursive: true, force: true })
      await this.#sweep(id)
      await this.#host.scope.remove(id)
      await this.#reconcileForwards()
    })
  }

  async consoleLog({ id }: MachineRef, tailBytes: number): Promise<Uint8Array> {
    await this.#monitors.collect(id)
    return readTail(machinePaths(this.#host, id).console, tailBytes)
  }

  watch(changed: (id: string) => void): void {
    this.#changed = changed
    for (const id of this.#lost.splice(0)) changed(id)
  }

  async adopt(): Promise<void> {
    const { run_dir, service_uid, log } = this.#host
    await mkdir(instancesFolder(this.#host), { recursive: true, mode: 0o711 })
    await mkdir(run_dir, { recursive: true, mode: 0o711 })
    if (service_uid !== null && !(await isReachable(run_dir)))
      throw new Error(`run_dir must be accessible to all users, because each machine runs as its own user: ${run_dir}`)
    await this.#sweep(null)
    const ids = (await this.list()).map(({ id }) => id)
    const counts = { machines: ids.length, running: 0 }
    const adoptNext = async () => {
      for (let id = ids.pop(); id !== undefined; id = ids.pop()) {
        // A machine that cannot be read stays unchanged; the reconciler reports it.
        const found = await findMachine(this.#host, id).catch((error) =>
          log.error({ instance: id, error: String(error) }, 'machine cannot be read'),
        )
        if (found?.run?.ended === null && !found.process) this.#lost.push(id)
        if (!found?.process) continue
        this.#monitors.attach(id, found.paths, found.process)
        counts.running++
      }
    }
    await Promise.all(Array.from({ length: MAX_CONCURRENT_ADOPTIONS }, adoptNext))
    log.info({ ...counts, hypervisor: this.hypervisor() }, 'machines adopted')
    this.#scheduleUpkeep()
    this.#scheduleDiskGuard()
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#upkeep?.cancel()
    this.#diskGuard?.cancel()
    this.#monitors.close()
    this.#changed = () => {}
    await this.#host.egress.guest_network?.close()
  }

  /**
   * A host that crashed may have left a partial write. The first start afterwards checks the disk and repairs nothing. A
   * disk too large to be checked in time is started anyway; QEMU rejects a disk that is marked as corrupt.
   */
  async #checkAfterReboot(machine: MachineFile, last: RunFile | null): Promise<void> {
    if (!last || last.ended !== null || last.process.boot_id === hostBootId()) return
    const damage = await findDamage(this.#host, machine)
    if (damage === null) return
    const message =
      'The disk was damaged when the host went down. Rebuild the instance to create a new disk from its image.'
    throw new DamagedDiskError('disk_damaged', message, damage)
  }

  async #ensureNetwork(): Promise<void> {
    const { egress, log } = this.#host
    const wasSet = await egress.ensure().catch((error) => {
      log.error({ error: String(error) }, 'the packet filter for guests cannot be set')
    })
    if (wasSet) log.warn({}, 'the packet filter for guests was changed or removed; it is set again')
    await this.#reconcileForwards()
  }

  /** A failure is repaired by the next call, which is periodic. */
  async #reconcileForwards(): Promise<void> {
    const { log, network } = this.#host
    await network
      .reconcile(() => runningForwards(this.#host))
      .catch((error) => log.error({ error: String(error) }, 'the ports of guests cannot be forwarded'))
  }

  #locked<T>(id: string, work: (found: Machine | null) => Promise<T>, thorough = false): Promise<T> {
    return this.#locks.run(id, async () => work(await findMachine(this.#host, id, thorough)))
  }

  async #processIds(): Promise<string[]> {
    const instances = instancesFolder(this.#host)
    const names = (await findMachineProcesses(instances)).map(({ folder }) => folder.slice(instances.length + 1))
    return names.filter((name) => isId('inst', name))
  }

  /** Removes the leftovers of unfinished builds and deletions, of one machine or of all. */
  async #sweep(id: string | null): Promise<void> {
    const instances = instancesFolder(this.#host)
    for (const name of await readdir(instances)) {
      const owner = scratchOwner(name)
      if (owner && (id === null || owner === id)) await rm(join(instances, name), { recursive: true, force: true })
    }
    await syncFolder(instances)
  }

  /** Handles the exit of a process that this driver started, which is known before its sockets close. */
  async #childEnded(id: string): Promise<void> {
    const at = this.#host.clock.now()
    const { paths, run } = (await findMachine(this.#host, id).catch(() => null)) ?? {}
    if (paths && run && run.ended === null) {
      this.#monitors.recordFailure(id, at)
      const log = await this.#monitors.messages(id, paths)
      this.#host.log.warn({ instance: id, run: run.run, qemu_log: log }, 'machine process exited')
    }
    this.#changed(id)
  }

  /**
   * Pauses all guests while the disk of the host is nearly full. They could fill it, because their disks are sparse, and
   * PostgreSQL could no longer record anything. The reconciler resumes them when space is free again.
   */
  #scheduleDiskGuard(): void {
    if (this.#closed) return
    this.#diskGuard = this.#host.clock.after(DISK_GUARD_MS, async () => {
      const isFull = await isNearlyFull(instancesFolder(this.#host)).catch(() => false)
      if (isFull) {
        const paused = await this.#monitors.pauseAll()
        if (paused > 0)
          this.#host.log.error({ machines: paused }, 'the disk of the host is nearly full: guests are paused')
      }
      this.#scheduleDiskGuard()
    })
  }

  /** Keeps the rules for what guests send, and the forwards of their ports, in force. */
  #scheduleUpkeep(): void {
    if (this.#closed) return
    this.#upkeep = this.#host.clock.after(UPKEEP_MS, async () => {
      if (this.#monitors.size > 0) await this.#ensureNetwork()
      this.#scheduleUpkeep()
    })
  }
}

/** Machines with a namespace of their own need an uplink. */
function networkOf(options: QemuOptions) {
  const { guest_network } = options.egress
  return userNetwork(options, guest_network && openUplink(guest_network.api_socket, options.clock))
}

const filterReason = ({ guest_network }: Egress) =>
  `nftables filters what guests send${guest_network === null ? '' : ', in a network namespace of all machines'}`

const missing = (id: string) =>
  new NotFoundError('disk_missing', 'The machine has no disk.', `no machine folder: ${id}`)
const stale = (id: string) =>
  new TransientError('stale_spec', 'The machine has another disk or run.', `stale spec: ${id}`)
const stillRunning = (id: string) =>
  new TransientError('still_running', 'The machine is still running.', `a process of an older run is alive: ${id}`)
