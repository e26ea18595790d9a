import { chown, mkdir, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Host } from './host.ts'
import { imageGroup } from './image-group.ts'
import { type Confinement, isReachable } from './launch.ts'
import { instancesFolder, type MachineFile, type MachinePaths, machinePaths } from './machine-files.ts'

/** The paths as QEMU sees them, and the binds that are needed for it. */
export type View = {
  paths: MachinePaths
  image_folder: string
  binds: Confinement['binds']
  /** The group that can read the image; null if all can. */
  image_group: number | null
  /** Recreates the folder of the sockets and the mount points of the binds. */
  prepare(): Promise<void>
}

/** The real folders if the machine's user has access to them, otherwise folders below the run folder. */
export async function viewOf(host: Host, machine: Pick<MachineFile, 'id' | 'image' | 'uid_number'>): Promise<View> {
  const real = machinePaths(host, machine.id)
  const image = join(host.images_dir, machine.image.folder)
  const image_group = await imageGroup(host, machine.image.folder)
  const direct =
    host.service_uid === null || ((await isReachable(instancesFolder(host))) && (await isReachable(dirname(image))))
  const visible = direct ? real : machinePaths(host, machine.id, join(real.sockets, 'instance'))
  const image_folder = direct ? image : join(real.sockets, 'image')
  const binds = direct
    ? []
    : [
        { from: real.directory, to: visible.directory },
        { from: image, to: image_folder },
      ]
  const prepare = async () => {
    await rm(real.sockets, { recursive: true, force: true })
    await mkdir(real.sockets, { recursive: true, mode: 0o700 })
    for (const { to } of binds) await mkdir(to)
    const uid = userOf(host, machine)
    if (uid !== null) await chown(real.sockets, uid, uid)
  }
  return { paths: visible, image_folder, image_group, binds, prepare }
}

const userOf = (host: Host, machine: Pick<MachineFile, 'uid_number'>) =>
  host.service_uid === null ? null : host.service_uid + machine.uid_number

/** The confinement of a machine's QEMU and of every program that reads a file that QEMU can write. */
export function confinementOf(
  host: Host,
  machine: Pick<MachineFile, 'uid_number'>,
  view: Pick<View, 'binds' | 'image_group'>,
  { kvm_group = null, ...more }: Partial<Pick<Confinement, 'scope' | 'enter'>> & { kvm_group?: number | null } = {},
): Confinement {
  const groups = [view.image_group, kvm_group].filter((each) => each !== null)
  return { uid: userOf(host, machine), groups, scope: [], enter: [], binds: view.binds, ...more }
}
