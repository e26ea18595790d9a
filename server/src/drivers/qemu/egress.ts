/**
 * Filters what guests send, with the host's packet filter. The rules are in one table of this installation and act on the
 * users of its machines, so they leave other rules of the host as they are, and stay while the control plane is stopped.
 * They are level-triggered: before each start of a machine, and periodically, the table is compared with what it should
 * be, and set again if another program has flushed it or the DNS servers of the host have changed.
 */
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { meansGone } from '../../lib/processes.ts'
import { TransientError } from '../driver.ts'
import { type EgressPolicy, egressScript, removalScript, resolversIn, tableOf } from './egress-rules.ts'
import { KeyedLock } from './keyed-lock.ts'
import { runProgram } from './run-program.ts'

export type Egress = {
  /** Why guests are not filtered; null if they are. */
  readonly unfiltered_reason: string | null
  /** Sets the rules if they are missing or differ. True if they were set. Throws TransientError if that fails. */
  ensure(): Promise<boolean>
}

export type EgressOptions = Omit<EgressPolicy, 'first_uid' | 'resolvers'> & {
  /** The first user ID of machines; null if they run as the user of the control plane. */
  service_uid: number | null
  resolv_conf?: string
  nft?: string
}

const NFT_MS = 10_000
const ATTEMPTS = 3
const RETRY_MS = 200

/** No filter, and why. */
export const unfiltered = (reason: string): Egress => ({ unfiltered_reason: reason, ensure: async () => false })

/**
 * Sets the rules. Where this host has no usable packet filter, the result says so; a failure for lack of memory or
 * descriptors proves nothing and is thrown.
 */
export async function openEgress(options: EgressOptions): Promise<Egress> {
  const { service_uid, nft = 'nft' } = options
  if (service_uid === null) return unfiltered('machines run as the user of the control plane')
  const egress = nftables({ ...options, first_uid: service_uid }, nft)
  for (let attempt = 1; ; attempt++) {
    try {
      await egress.ensure()
      return egress
    } catch (error) {
      const reason = unusable((error as Error).cause as Error)
      if (reason === null) throw error
      // Another program may be changing rules at this moment.
      if (attempt === ATTEMPTS) return unfiltered(reason)
      await sleep(RETRY_MS)
    }
  }
}

/** Why the packet filter cannot be used; null if the program could not run and another attempt may succeed. */
function unusable(error: Error): string | null {
  const { code } = (error.cause ?? {}) as { code?: unknown }
  if (code === 'ENOENT') return 'the program nft is not installed (Debian package nftables)'
  return typeof code === 'number' ? `nft cannot set rules on this host: ${error.message.split('\n')[0]}` : null
}

function nftables(policy: Omit<EgressPolicy, 'resolvers'> & { resolv_conf?: string }, nft: string): Egress {
  const { resolv_conf = '/etc/resolv.conf', installation_id } = policy
  const lock = new KeyedLock()
  let applied = { script: '', listing: '' }
  const list = () => runProgram([nft, '--stateless', 'list', 'table', 'inet', tableOf(installation_id)], NFT_MS)

  async function ensure(): Promise<boolean> {
    const script = egressScript({ ...policy, resolvers: resolversIn(await readIfThere(resolv_conf)) })
    if (script === applied.script && (await list().catch(() => '')) === applied.listing) return false
    await runProgram([nft, '--file', '-'], NFT_MS, script)
    applied = { script, listing: await list() }
    return true
  }

  return {
    unfiltered_reason: null,
    ensure: () =>
      lock.run('', () =>
        ensure().catch((error: Error) => {
          const message = 'The packet filter of the host could not be set.'
          throw new TransientError('egress_filter', message, error.message, { cause: error })
        }),
      ),
  }
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
