import { chown, mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Host } from './driver.ts'
import { type Confinement, isReachable } from './launch.ts'
import { instancesFolder, type MachineFile, type MachinePaths, machinePaths } from './machine-files.ts'

/** Paths as the machine's QEMU sees them, and what has to be bound for it to see them so. */
export type View = {
  paths: MachinePaths
  image_folder: string
  binds: Confinement['binds']
  /** Makes its folder of sockets anew, and the empty folders that are bound over. */
  prepare(): Promise<void>
}

/** The real folders where the machine's user can walk to them, otherwise folders below the run folder. */
export async function viewOf(host: Host, machine: Pick<MachineFile, 'id' | 'image' | 'uid_number'>): Promise<View> {
  const real = machinePaths(host, machine.id)
  const image = join(host.images_dir, machine.image.folder)
  const direct = host.service_uid === null || ((await isReachable(instancesFolder(host))) && (await isReachable(image)))
  const seen = direct ? real : machinePaths(host, machine.id, join(real.sockets, 'instance'))
  const image_folder = direct ? image : join(real.sockets, 'image')
  const binds = direct
    ? []
    : [
        { from: real.directory, to: seen.directory },
        { from: image, to: image_folder },
      ]
  const prepare = async () => {
    await rm(real.sockets, { recursive: true, force: true })
    await mkdir(real.sockets, { recursive: true, mode: 0o700 })
    for (const { to } of binds) await mkdir(to)
    const uid = userOf(host, machine)
    if (uid !== null) await chown(real.sockets, uid, uid)
  }
  return { paths: seen, image_folder, binds, prepare }
}

const userOf = (host: Host, machine: Pick<MachineFile, 'uid_number'>) =>
  host.service_uid === null ? null : host.service_uid + machine.uid_number

/** What holds this machine's QEMU, and every program that touches what its QEMU may have written. */
export function confinementOf(
  host: Host,
  machine: Pick<MachineFile, 'uid_number'>,
  view: Pick<View, 'binds'>,
  more: Partial<Pick<Confinement, 'group' | 'systemd_unit'>> = {},
): Confinement {
  return { uid: userOf(host, machine), group: null, systemd_unit: null, binds: view.binds, ...more }
}
