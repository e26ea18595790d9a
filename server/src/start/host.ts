import { readFileSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { join } from 'node:path'
import type { Settings } from '../config.ts'
import { MACHINE_USERS } from '../drivers/qemu/users.ts'
import { usedBytes } from '../lib/files.ts'
import { freeBytes } from './data-dir.ts'
import type { Installation } from './installation.ts'

const GIB = 2 ** 30
/** `imports/<image>/output/`. */
const IMPORT_LEVELS = 3
/** `disk_bytes`: what is free for instances, or used by them already. */
export type HostFacts = { cores: number; memory_bytes: number; disk_bytes: number }
export type Limits = { vcpus: number; memory_bytes: number; disk_bytes: number }

/** The resources of this host. */
export function hostFacts(dataDir: string, free = freeBytes): HostFacts {
  const disk_bytes = free(dataDir) + usedBytes(join(dataDir, 'instances'))
  return { cores: availableParallelism(), memory_bytes: totalmem(), disk_bytes }
}

/**
 * Free bytes for images: what is free, and what uploads and imports in progress have written. What a recipe builds is a tree
 * of many files, which is not read: it counts as if it were still to be written.
 */
export function imageSpaceBytes(dataDir: string): number {
  return freeBytes(dataDir) + usedBytes(join(dataDir, 'uploads')) + usedBytes(join(dataDir, 'imports'), IMPORT_LEVELS)
}

/** How many descriptors this process may have open. Node has raised the soft limit to the hard one. */
export function descriptorLimit(limits = readFileSync('/proc/self/limits', 'utf8')): number {
  const [, soft = ''] = /^Max open files\s+(\S+)/m.exec(limits) ?? []
  return soft === 'unlimited' ? Number.MAX_SAFE_INTEGER : Number(soft)
}

/**
 * The capacity of the host for all instances together. By default, an eighth of the memory (at least 512 MiB) is reserved
 * for the host, and four times the disk space that is free or used by instances can be allocated, because disks are sparse.
 * So the capacity does not shrink with every start while instances fill their disks.
 */
export function limitsOf(capacity: Settings['capacity'], host: HostFacts): Limits {
  const reserve = Math.max(GIB / 2, Math.floor(host.memory_bytes / 8))
  return {
    vcpus: host.cores * capacity.vcpus_per_core,
    memory_bytes: capacity.memory_bytes ?? Math.max(0, host.memory_bytes - reserve),
    disk_bytes: capacity.disk_bytes ?? 4 * host.disk_bytes,
  }
}

/**
 * The first of the user IDs that machines run as. Null without root, or in a user namespace (a container) without these
 * IDs: machines then run as the user of the control plane.
 */
export function machineUid(
  { first_machine_uid }: Pick<Installation, 'first_machine_uid'>,
  isRoot = process.getuid?.() === 0,
  uidMap = readFileSync('/proc/self/uid_map', 'utf8'),
): number | null {
  const ranges = uidMap
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
  const isMapped = ranges.some(
    ([first = 0, , count = 0]) => first <= first_machine_uid && first_machine_uid + MACHINE_USERS <= first + count,
  )
  return isRoot && isMapped ? first_machine_uid : null
}
