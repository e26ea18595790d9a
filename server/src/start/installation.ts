/**
 * The identity of this installation, created once in <data-dir>/installation.json: its ID, and the names and numbers
 * derived from it, so that several installations on one host do not conflict.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { MACHINE_USERS } from '../drivers/qemu/users.ts'
import { StartupError } from '../lib/errors.ts'
import { readFileOrNull, writePrivateFile } from '../lib/files.ts'
import type { Random } from '../lib/random.ts'
import { claimedBlocks } from './run-dir.ts'

export const INSTALLATION_FILE = 'installation.json'
const FORMAT = 1
const ID_LETTERS = 'abcdefghijklmnopqrstuvwxyz0123456789'

export type Installation = {
  /** Format of the data directory; a release rejects a newer one. */
  format: number
  id: string
  /** IP addresses on this host for live instances. */
  loopback_block: string
  /** Private networks are UDP ports of this group, from the base on. */
  multicast_group: string
  multicast_port_base: number
  /** When the control plane runs as root, each machine has its own user ID, from this one on. */
  first_machine_uid: number
  /** Seed for the random numbers of the simulated driver. */
  seed: number
  created_at: string
}

/** Reads the installation of this directory, or creates it. */
export function openInstallation(folder: string, random: Random, now: Date): Installation {
  const file = join(folder, INSTALLATION_FILE)
  const text = readFileOrNull(file)
  if (text !== null) return parseInstallation(file, text)
  let id = ''
  for (let i = 0; i < 8; i++) id += ID_LETTERS[random.integer(ID_LETTERS.length)]
  const installation: Installation = {
    format: FORMAT,
    id,
    loopback_block: freeBlock(id, new Set([...claimedBlocks(), ...listeningBlocks()])),
    ...numbersOf(id),
    created_at: now.toISOString(),
  }
  writePrivateFile(file, `${JSON.stringify(installation, null, 2)}\n`)
  return installation
}

/** Parses installation.json; throws a StartupError if its format is newer or it is damaged. */
export function parseInstallation(file: string, text: string): Installation {
  let found: Partial<Installation> = {}
  try {
    found = JSON.parse(text) as Partial<Installation>
  } catch {}
  if (typeof found.format === 'number' && found.format > FORMAT) {
    throw new StartupError(
      `${file} is from a newer version (format ${found.format}, this release supports ${FORMAT}). Start that release, or set another --data-dir.`,
    )
  }
  if (found.format !== FORMAT || !found.id || !found.loopback_block) {
    throw new StartupError(`${file} is damaged. Restore it from a backup, or set another --data-dir.`)
  }
  return found as Installation
}

/** The first free block of the 16,384 in 127.64.0.0/10, starting at a position derived from the ID. */
export function freeBlock(id: string, taken: Set<string>): string {
  const first = hash(id).readUInt16BE(0) % 16_384
  for (let i = 0; i < 16_384; i++) {
    const number = (first + i) % 16_384
    const block = `127.${64 + (number >> 8)}.${number & 255}.0/24`
    if (!taken.has(block)) return block
  }
  throw new StartupError('No loopback block is free on this host. Set a range with CLOUDNEXUS_PUBLIC_ADDRESSES.')
}

/** User IDs are from a range that no system assigns (above those of systemd's containers), MACHINE_USERS for each installation. */
function numbersOf(
  id: string,
): Pick<Installation, 'multicast_group' | 'multicast_port_base' | 'first_machine_uid' | 'seed'> {
  const digest = hash(id)
  return {
    multicast_group: `239.${digest[2]}.${digest[3]}.1`,
    multicast_port_base: 20_000 + (digest.readUInt16BE(4) % 10_000),
    first_machine_uid: 1_900_000_000 + (digest.readUInt16BE(6) % 4_000) * MACHINE_USERS,
    seed: digest.readUInt32BE(8),
  }
}

function hash(id: string): Buffer {
  return createHash('sha256').update(id).digest()
}

function listeningBlocks(): string[] {
  return parseListeners(readFileSync('/proc/net/tcp', 'utf8'))
}

/** The /24 blocks of 127.0.0.0/8 with a listening socket, from /proc/net/tcp (its bytes are reversed). */
export function parseListeners(table: string): string[] {
  const LISTEN = '0A'
  return table
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local, , state]) => state === LISTEN && local?.slice(6, 8) === '7F')
    .map(([, local]) => Buffer.from(local!.slice(0, 8), 'hex').reverse())
    .map((address) => `127.${address[1]}.${address[2]}.0/24`)
}
