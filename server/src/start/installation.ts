/**
 * What makes this installation itself, decided once and kept in <data-dir>/installation.json: its id, and from the id
 * the names and numbers that several installations on one host would otherwise fight for.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { StartupError } from '../lib/errors.ts'
import type { Random } from '../lib/random.ts'
import { readFileOrNull, writePrivateFile } from './files.ts'
import { claimedBlocks } from './run-dir.ts'

export const INSTALLATION_FILE = 'installation.json'
const FORMAT = 1
const ID_LETTERS = 'abcdefghijklmnopqrstuvwxyz0123456789'

export type Installation = {
  /** Of the files in the data directory; a release refuses a newer one. */
  format: number
  id: string
  /** Addresses on this host for live instances. */
  loopback_block: string
  /** Private networks are UDP ports of this group, counted from the base. */
  multicast_group: string
  multicast_port_base: number
  /** Machines run as users of their own, from this one on, when the control plane runs as root. */
  first_machine_uid: number
  /** Of the simulated world's luck. */
  seed: number
  created_at: string
}

/** Reads the installation of this directory, or makes it. */
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

/** The content of installation.json; refuses a newer format and damage. */
export function parseInstallation(file: string, text: string): Installation {
  let found: Partial<Installation> = {}
  try {
    found = JSON.parse(text) as Partial<Installation>
  } catch {}
  if (typeof found.format === 'number' && found.format > FORMAT) {
    throw new StartupError(
      `${file} is of a newer version (format ${found.format}, this release knows ${FORMAT}). Start that release, or give another --data-dir.`,
    )
  }
  if (found.format !== FORMAT || !found.id || !found.loopback_block) {
    throw new StartupError(`${file} is damaged. Restore it from a backup, or give another --data-dir.`)
  }
  return found as Installation
}

/** The first block from the id's own on that nobody has: one of 16,384 below 127.64.0.0/10. */
export function freeBlock(id: string, taken: Set<string>): string {
  const first = hash(id).readUInt16BE(0) % 16_384
  for (let i = 0; i < 16_384; i++) {
    const number = (first + i) % 16_384
    const block = `127.${64 + (number >> 8)}.${number & 255}.0/24`
    if (!taken.has(block)) return block
  }
  throw new StartupError('No loopback block is free on this host. Give a range by CLOUDNEXUS_PUBLIC_ADDRESSES.')
}

/** User ids are of the range that nobody hands out (above the containers' of systemd), 60,000 for each installation. */
function numbersOf(
  id: string,
): Pick<Installation, 'multicast_group' | 'multicast_port_base' | 'first_machine_uid' | 'seed'> {
  const digest = hash(id)
  return {
    multicast_group: `239.${digest[2]}.${digest[3]}.1`,
    multicast_port_base: 20_000 + (digest.readUInt16BE(4) % 10_000),
    first_machine_uid: 1_900_000_000 + (digest.readUInt16BE(6) % 4_000) * 60_000,
    seed: digest.readUInt32BE(8),
  }
}

function hash(id: string): Buffer {
  return createHash('sha256').update(id).digest()
}

function listeningBlocks(): string[] {
  return parseListeners(readFileSync('/proc/net/tcp', 'utf8'))
}

/** The /24 blocks of 127.0.0.0/8 in which somebody listens, from the text of /proc/net/tcp (addresses are reversed). */
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
