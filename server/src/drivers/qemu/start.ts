import type { ChildProcess } from 'node:child_process'
import { rm, stat, truncate } from 'node:fs/promises'
import { AddressInUseError, CapacityError, type MachineSpec, TransientError } from '../driver.ts'
import { growDisk } from './build.ts'
import { qemuCommand } from './command.ts'
import { readTail } from './console-log.ts'
import { checkImageFile } from './disk.ts'
import type { Host } from './driver.ts'
import { confine, spawnDetached } from './launch.ts'
import { type MachineFile, machinePaths, type RunFile, type StartFile, writeJson } from './machine-files.ts'
import { identify, type ProcessIdentity } from './process.ts'
import { enterCgroup } from './scope.ts'
import { confinementOf, viewOf } from './view.ts'

/**
 * Starts a machine that is known to have no process. The order makes it safe to be killed at any line: the intent is on
 * disk before the process exists, and the process names its folder from its first moment, so it is always found again.
 */
export async function startMachine(
  host: Host,
  spec: MachineSpec,
  machine: MachineFile,
  now: Date,
): Promise<ChildProcess & { identity: ProcessIdentity }> {
  const paths = machinePaths(host, spec.id)
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
  const start: StartFile = {
    ...{ run, disk, started_at: now.toISOString(), vcpus, memory_bytes },
    ...{ public_ip: spec.network.public_ip, ports, ended: null },
  }
  await writeJson(paths.start_file, start)
  const systemd_unit = host.scope === 'systemd' ? `cloudnexus-${host.installation_id}-${spec.id}-${run}.scope` : null
  const confinement = confinementOf(host, machine, view, { group: await kvmGroup(host), systemd_unit })
  const child = await spawnDetached(confine(command, confinement), paths.log)
  if (host.scope === 'cgroup') await enterCgroup(host.installation_id, spec.id, child.pid)
  const identity = await identify(child.pid)
  if (!identity) throw startError((await readTail(paths.log, 2000)).toString('utf8'))
  const file: RunFile = { ...start, process: identity }
  await writeJson(paths.run_file, file)
  await rm(paths.start_file, { force: true })
  return Object.assign(child, { identity })
}

/** /dev/kvm usually belongs to a group; the machine's user gets that group and no other. */
async function kvmGroup(host: Host): Promise<number | null> {
  if (host.accelerator.accelerator !== 'kvm' || host.service_uid === null) return null
  return (await stat('/dev/kvm')).gid || null
}

/** Why QEMU ended at once, as far as its last words tell. Exported for its test. */
export function startError(words: string) {
  if (/cannot set up guest memory|Cannot allocate memory/.test(words))
    return new CapacityError('host_memory', 'The host has insufficient memory for this machine.', words)
  if (/Could not set up host forwarding rule/.test(words))
    return new AddressInUseError(
      'address_in_use',
      'A port of the public IP address is already in use on the host.',
      words,
    )
  return new TransientError('start_failed', 'The machine could not be started.', words)
}
