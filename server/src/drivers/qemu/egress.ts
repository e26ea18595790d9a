/**
 * Filters what guests send, with the host's packet filter. The rules are in one table of this installation and act on the
 * users of its machines, so they leave other rules of the host as they are, and stay while the control plane is stopped.
 * They are level-triggered: before each start of a machine, and periodically, the table is compared with what it should
 * be, and set again if another program has flushed it or the DNS servers of the host have changed.
 *
 * Without root, machines have one user, and the rules are set in a network namespace of all machines instead.
 */
import { readFile } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { KeyedLock } from '../../lib/keyed-lock.ts'
import { meansGone } from '../../lib/processes.ts'
import { TransientError } from '../driver.ts'
import { type EgressPolicy, egressScript, removalScript, resolversIn, tableOf } from './egress-rules.ts'
import { type GuestNetwork, GuestNetworkError, guestNetwork } from './guest-network.ts'
import { UPLINK } from './network/uplink.ts'
import { runProgram } from './run-program.ts'

export type Egress = {
  /** Why guests are not filtered; null if they are. */
  readonly unfiltered_reason: string | null
  /** The namespace in which machines run; null if it is that of the host. */
  readonly guest_network: GuestNetwork | null
  /** Sets the rules if they are missing or differ. True if they were set. Throws TransientError if that fails. */
  ensure(): Promise<boolean>
}

export type EgressOptions = Omit<EgressPolicy, 'first_uid' | 'resolvers' | 'host_addresses'> & {
  /** The first user ID of machines; null if they run as the user of the control plane. */
  service_uid: number | null
  data_dir: string
  run_dir: string
  /** IP addresses and ranges of machines. */
  public_addresses: readonly string[]
  resolv_conf?: string
  nft?: string
}

const NFT_MS = 10_000
const ATTEMPTS = 3
const RETRY_MS = 200

/** No filter, and why. */
export const unfiltered = (reason: string): Egress => ({
  unfiltered_reason: reason,
  guest_network: null,
  ensure: async () => false,
})

/**
 * Sets the rules. Where this host has no usable packet filter, the result says so; a failure for lack of memory or
 * descriptors proves nothing and is thrown.
 */
export async function openEgress(options: EgressOptions): Promise<Egress> {
  const egress = filter(options, options.service_uid === null ? guestNetwork(options) : null)
  for (let attempt = 1; ; attempt++) {
    try {
      await egress.ensure()
      return egress
    } catch (error) {
      const reason = unusable((error as Error).cause as Error)
      if (reason === null) throw error
      // Another program may be changing rules at this moment.
      if (attempt === ATTEMPTS) {
        await egress.guest_network?.close()
        return unfiltered(options.service_uid === null ? `without root, ${reason}` : reason)
      }
      await sleep(RETRY_MS)
    }
  }
}

/** Why there can be no filter; null if a program could not run and another attempt may succeed. */
function unusable(error: Error): string | null {
  const { code, path } = (error.cause ?? {}) as { code?: unknown; path?: string }
  if (code === 'ENOENT')
    return `the program ${path} is not installed${path === 'nft' ? ' (Debian package nftables)' : ''}`
  const isRefused = typeof code === 'number' || error instanceof GuestNetworkError
  return isRefused ? `rules cannot be set on this host: ${error.message.split('\n')[0]}` : null
}

function filter(options: EgressOptions, guest_network: GuestNetwork | null): Egress {
  const { resolv_conf = '/etc/resolv.conf', nft = 'nft', installation_id, service_uid } = options
  const lock = new KeyedLock()
  let applied = { script: '', listing: '' }
  const run = (args: string[], input?: string) =>
    runProgram([...(guest_network?.enter() ?? []), nft, ...args], NFT_MS, input)
  const list = () => run(['--stateless', 'list', 'table', 'inet', tableOf(installation_id)])

  async function script(): Promise<string> {
    const resolvers = resolversIn(await readIfThere(resolv_conf))
    if (guest_network === null) return egressScript({ ...options, first_uid: service_uid, resolvers })
    const host_addresses = [...ownAddresses(), ...options.public_addresses]
    return egressScript({ ...options, first_uid: null, resolvers: [...resolvers, UPLINK.dns], host_addresses })
  }

  async function ensure(): Promise<boolean> {
    await guest_network?.ensure()
    const next = await script()
    if (next === applied.script && (await list().catch(() => '')) === applied.listing) return false
    await run(['--file', '-'], next)
    applied = { script: next, listing: await list() }
    return true
  }

  return {
    unfiltered_reason: null,
    guest_network,
    ensure: () =>
      lock.run('', () =>
        ensure().catch((error: Error) => {
          const message = 'The filter of what guests send could not be set.'
          throw new TransientError('egress_filter', message, error.message, { cause: error })
        }),
      ),
  }
}

/** The IP addresses of this host. */
function ownAddresses(): string[] {
  const all = Object.values(networkInterfaces()).flatMap((each) => each ?? [])
  return all.map(({ address }) => address.split('%')[0]!).sort()
}

/** Removes the rules of an installation. Rejects if nft fails; its absence is no error. */
export async function removeEgress(installation_id: string, nft = 'nft'): Promise<void> {
  await runProgram([nft, '--file', '-'], NFT_MS, removalScript(installation_id)).catch((error: Error) => {
    if ((error.cause as { code?: unknown }).code !== 'ENOENT') throw error
  })
}

function readIfThere(file: string): Promise<string> {
  return readFile(file, 'utf8').catch((error: unknown) => {
    if (meansGone(error)) return ''
    throw error
  })
}
