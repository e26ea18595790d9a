import type { ChildProcess } from 'node:child_process'
import { rm, stat, truncate } from 'node:fs/promises'
import { identify, type ProcessIdentity } from '../../lib/processes.ts'
import { AddressInUseError, CapacityError, type MachineSpec, TransientError } from '../driver.ts'
import { growDisk } from './build.ts'
import { qemuCommand } from './command.ts'
import { checkImageFile } from './disk.ts'
import type { Host } from './host.ts'
import { confine, spawnDetached } from './launch.ts'
import { runningForwards } from './machine.ts'
import { type MachineFile, machinePaths, type RunFile, type StartFile, writeJson } from './machine-files.ts'
import { Messages } from './messages.ts'
import { confinementOf, viewOf } from './view.ts'

export type Started = { child: ChildProcess; identity: ProcessIdentity; messages: Messages }

/**
 * Starts a machine that has no process. The order of the steps makes a kill at any line safe: `starting.json` is written
 * before the process exists, and the process is found by its command line from its start.
 */
export async function startMachine(host: Host, spec: MachineSpec, machine: MachineFile, now: Date): Promise<Started> {
  const paths = machinePaths(host, spec.id)
  await host.egress.ensure()
  await growDisk(host, machine, spec.disk_bytes)
  // Ports of machines that have ended become free.
  await host.network.reconcile(() => runningForwards(host))
  const ports = await host.network.plan(spec)
  const view = await viewOf(host, { ...machine, image: spec.image })
  await checkImageFile(paths.disk)
  const command = qemuCommand(spec, view.paths, host.network.devices(spec, ports), {
    qemu_binary: host.qemu_binary,
    accelerator: host.accelerator.accelerator === 'kvm' ? 'kvm' : 'tcg',
    identity_folder: paths.directory,
    image_folder: view.image_folder,
  })
  await view.prepare()
  await truncate(paths.ready)
  const { run, disk, vcpus, memory_bytes } = spec
  const { public_ip } = spec.network
  const started_at = now.toISOString()
  const start: StartFile = { run, disk, started_at, vcpus, memory_bytes, public_ip, ports, ended: null }
  await writeJson(paths.start_file, start)
  await host.scope.prepare(spec.id, spec)
  const scope = host.scope.command(spec.id, run, spec)
  const enter = host.egress.guest_network?.enter() ?? []
  const confinement = confinementOf(host, machine, view, { kvm_group: await kvmGroup(host), scope, enter })
  const messages = await Messages.create(paths)
  try {
    const child = await spawnDetached(confine(command, confinement), messages.fd)
    const identity = identify(child.pid)
    if (!identity) throw startError(await messages.collect())
    const file: RunFile = { ...start, process: identity }
    await writeJson(paths.run_file, file)
    await rm(paths.start_file, { force: true })
    return { child, identity, messages }
  } catch (error) {
    await messages.close()
    throw error
  }
}

/** The group of /dev/kvm, which becomes a supplementary group of the machine's user. */
async function kvmGroup(host: Host): Promise<number | null> {
  if (host.accelerator.accelerator !== 'kvm' || host.service_uid === null) return null
  return (await stat('/dev/kvm')).gid || null
}

/** The error for a QEMU that exited immediately, by its output. Exported for its test. */
export function startError(output: string) {
  if (/cannot set up guest memory|Cannot allocate memory/.test(output))
    return new CapacityError('host_memory', 'The host has insufficient memory for this machine.', output)
  if (/Could not set up host forwarding rule/.test(output))
    return new AddressInUseError(
      'address_in_use',
      'A port of the public IP address is already in use on the host.',
      output,
    )
  return new TransientError('start_failed', 'The machine could not be started.', output)
}
