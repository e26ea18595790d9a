/**
 * The initial rows of an installation: the system environment, the pool of public IP addresses, and a project with keys
 * that have all scopes and the operator's SSH key. Each statement is idempotent, so that a start completes what an
 * interrupted one began. Later changes of a user stay.
 */
import type { Sql, Transaction } from '../db/database.ts'
import { SCOPES } from '../keys/scopes.ts'
import { newId } from '../lib/id.ts'
import type { Random } from '../lib/random.ts'
import { ensureProject, insertProject } from '../projects/store.ts'
import { parsePublicKey } from '../ssh-keys/public-key.ts'

const SYSTEM_ENVIRONMENT = 'env_system'

export type FirstProject = {
  region: string
  /** Range for the public IP addresses of live instances. */
  public_addresses: string
  keys: Record<'live' | 'test', string>
  pepper: Uint8Array
  /** One line of an OpenSSH public key. */
  ssh_public_key: string
}

/** Creates missing rows, in one transaction. */
export async function openFirstProject(sql: Sql, random: Random, first: FirstProject): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`lock table projects in share row exclusive mode`
    await tx`insert into environments (id, mode) values (${SYSTEM_ENVIRONMENT}, 'system') on conflict do nothing`
    await tx`insert into address_pools (id, range) values (${`public:live:${first.region}`}, ${first.public_addresses})
      on conflict (id) do update set range = excluded.range
      where address_pools.range <> excluded.range`
    const [known] = await tx<{ id: string }[]>`select id from projects order by created_at, id limit 1`
    const { id } = known ?? (await insertProject(tx, random, 'default'))
    const { keys, pepper } = first
    const own = { regions: [first.region], keys, key_name: 'credentials.json', scopes: SCOPES, pepper }
    const environments = await ensureProject(tx, random, id, own)
    for (const environment of Object.values(environments)) {
      await openSshKeyRow(tx, random, environment, first.ssh_public_key)
    }
  })
}

/** Inserts the key only if the environment has none; in an environment with other keys, a deleted key stays deleted. */
async function openSshKeyRow(tx: Transaction, random: Random, environment: string, text: string): Promise<void> {
  const key = parsePublicKey(text)
  if ('message' in key) throw new Error(`the SSH key of the data directory ${key.message}`)
  await tx`
    insert into ssh_keys (environment_id, id, name, public_key, fingerprint, is_default, created_at)
    select ${environment}, ${newId('ssh', random)}, 'cloudnexus', ${key.line}, ${key.fingerprint}, true,
      environment_now(${environment})
    where not exists (select from ssh_keys where environment_id = ${environment})`
}
