/**
 * Who can read an image on the host. Each machine has a user of its own, so an image that is shared by machines has a
 * group, to which only their processes belong: the users of other machines cannot read it. The group is a number in the
 * range of this installation, and the folder of the image records it.
 */
import { chmod, chown, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { KeyedLock } from '../../lib/keyed-lock.ts'
import type { Host } from './host.ts'
import { IMAGE_GROUPS, MACHINE_NUMBERS } from './users.ts'

const lock = new KeyedLock()

/** The group of an image, which is set if necessary; null if machines run as the user of the control plane. */
export function imageGroup(host: Pick<Host, 'images_dir' | 'service_uid'>, folder: string): Promise<number | null> {
  const { images_dir, service_uid } = host
  if (service_uid === null) return Promise.resolve(null)
  const first = service_uid + MACHINE_NUMBERS
  const isOurs = (gid: number) => gid >= first && gid < first + IMAGE_GROUPS
  return lock.run(images_dir, async () => {
    const path = join(images_dir, folder)
    const known = await stat(path)
    if (isOurs(known.gid) && (known.mode & 0o777) === 0o750) return known.gid
    const used = await groupsOf(images_dir)
    let gid = isOurs(known.gid) ? known.gid : first
    while (gid !== known.gid && used.has(gid)) gid++
    if (!isOurs(gid)) throw new Error('no group ID is free for an image')
    for (const name of await readdir(path)) {
      await chown(join(path, name), 0, gid)
      await chmod(join(path, name), 0o440)
    }
    // The folder comes last: it marks an image whose files are done.
    await chown(path, 0, gid)
    await chmod(path, 0o750)
    return gid
  })
}

async function groupsOf(images_dir: string): Promise<Set<number>> {
  const entries = await readdir(images_dir, { withFileTypes: true })
  const folders = entries.filter((entry) => entry.isDirectory())
  return new Set(await Promise.all(folders.map(async ({ name }) => (await stat(join(images_dir, name))).gid)))
}
