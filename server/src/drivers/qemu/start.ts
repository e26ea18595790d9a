import type { ChildProcess } from 'node:child_process'
import { rm, stat, truncate } from 'node:fs/promises'
import { identify, type ProcessIdentity } from '../../lib/processes.ts'
import { AddressInUseError, CapacityError, type MachineSpec, TransientError } from '../driver.ts'
import { growDisk } from './build.ts'
import { qemuCommand } from './command.ts'
import { readTail } from './console-log.ts'
import { checkImageFile } from './disk.ts'
import type { Host } from './host.ts'
import { confine, spawnDetached } from './launch.ts'
import { type MachineFile, machinePaths, type RunFile, type StartFile, writeJson } from './machine-files.ts'
import { enterCgroup } from './scope.ts'
import { confinementOf, viewOf } from './view.ts'

/**
 * Starts a machine that has no process. The order of the steps makes a kill at any line safe: `starting.json` is written
 * before the process exists, and the process is found by its command line from its start.
 */
export async function startMachine(
  host: Host,
  spec: MachineSpec,
  machine: MachineFile,
  now: Date,
): Promise<ChildProcess & { identity: ProcessIdentity }> {
  const paths = machinePaths(host, spec.id)
  await host.egress.ensure()
  await growDisk(host, machine, spec.disk_bytes)
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
  const systemd_unit = host.scope === 'systemd' ? `cloudnexus-${host.installation_id}-${spec.id}-${run}.scope` : null
  const confinement = confinementOf(host, machine, view, { group: await kvmGroup(host), systemd_unit })
  const child = await spawnDetached(confine(command, confinement), paths.log)
  if (host.scope === 'cgroup') await enterCgroup(host.installation_id, spec.id, child.pid)
  const identity = identify(child.pid)
  if (!identity) throw startError((await readTail(paths.log, 2000)).toString('utf8'))
  const file: RunFile = { ...start, process: identity }
  await writeJson(paths.run_file, file)
  await rm(paths.start_file, { force: true })
  return Object.assign(child, { identity })
}

/** The group of /dev/kvm, which becomes the only supplementary group of the machine's user. */
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
