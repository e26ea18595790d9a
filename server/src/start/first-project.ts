/**
 * What a fresh installation begins with: a project with its two environments, a default subnet in each, the pools of
 * addresses, keys for everything, and the operator's ssh key. Each statement can be repeated, so a start that was cut
 * short is completed by the next one; what the user has changed since stays as it is.
 */
import type { Sql, Transaction } from '../db/database.ts'
import { keyDigest, keyPrefix } from '../keys/format.ts'
import { SCOPES } from '../keys/scopes.ts'
import { newId } from '../lib/id.ts'
import type { Random } from '../lib/random.ts'
import { parsePublicKey } from '../ssh-keys/public-key.ts'

export const SYSTEM_ENVIRONMENT = 'env_system'
/** The name that the examples of the API use; in every environment it is the default subnet. */
const DEFAULT_SUBNET = 'sub_8f7e6d5c4b'
/** The test ranges hold 100,000 instances and more; 198.18.0.0/15 is for tests by RFC 2544 and routed nowhere. */
const RANGES = { live: '10.77.0.0/16', test: '10.64.0.0/10', test_public: '198.18.0.0/15' }

type Mode = 'live' | 'test'

export type FirstProject = {
  region: string
  /** Range of the live instances' public addresses. */
  public_addresses: string
  keys: Record<Mode, string>
  pepper: Uint8Array
  /** One line of an OpenSSH public key. */
  ssh_public_key: string
}

/** Makes what is missing, in one transaction. */
export async function openFirstProject(sql: Sql, random: Random, project: FirstProject): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`lock table projects in share row exclusive mode`
    await tx`insert into environments (id, mode) values (${SYSTEM_ENVIRONMENT}, 'system') on conflict do nothing`
    await tx`insert into address_pools (id, range) values (${`public:live:${project.region}`}, ${project.public_addresses})
      on conflict (id) do update set range = excluded.range
      where address_pools.range <> excluded.range`
    const environments = await openEnvironments(tx, random)
    for (const mode of ['live', 'test'] as const) {
      const environment = environments[mode]
      await openSubnet(tx, random, environment, mode, project.region)
      await openKey(tx, random, environment, project.keys[mode], project.pepper)
      await openSshKeyRow(tx, random, environment, project.ssh_public_key)
    }
    await tx`insert into address_pools (id, environment_id, range)
      values (${`public:${environments.test}`}, ${environments.test}, ${RANGES.test_public}) on conflict do nothing`
  })
}

async function openEnvironments(tx: Transaction, random: Random): Promise<Record<Mode, string>> {
  const [known] = await tx<{ id: string }[]>`select id from projects order by created_at, id limit 1`
  const project = known?.id ?? newId('proj', random)
  if (!known) await tx`insert into projects (id, name, created_at) values (${project}, 'default', now())`
  for (const mode of ['live', 'test']) {
    await tx`insert into environments (id, project_id, mode) values (${newId('env', random)}, ${project}, ${mode})
      on conflict (project_id, mode) do nothing`
  }
  const rows = await tx<{ id: string; mode: Mode }[]>`select id, mode from environments where project_id = ${project}`
  return Object.fromEntries(rows.map(({ id, mode }) => [mode, id])) as Record<Mode, string>
}

async function openSubnet(
  tx: Transaction,
  random: Random,
  environment: string,
  mode: Mode,
  region: string,
): Promise<void> {
  const [known] = await tx`
    select 1 from subnets where environment_id = ${environment} and region = ${region} and is_default`
  if (known) return
  // Only one region can have the well-known name: another one, should the operator rename the region, gets its own.
  const [taken] = await tx`select 1 from subnets where environment_id = ${environment} and id = ${DEFAULT_SUBNET}`
  const id = taken ? newId('sub', random) : DEFAULT_SUBNET
  const pool = `subnet:${environment}:${id}`
  await tx`insert into address_pools (id, environment_id, range) values (${pool}, ${environment}, ${RANGES[mode]})
    on conflict do nothing`
  await tx`
    insert into subnets (environment_id, id, region, name, range, pool_id, segment, is_default, created_at)
    values (${environment}, ${id}, ${region}, 'default', ${RANGES[mode]}, ${pool},
      ${mode === 'live' ? tx`nextval('subnet_segments')` : null}, true, environment_now(${environment}))`
}

/** A key that was revoked keeps its row, so it stays revoked. */
async function openKey(tx: Transaction, random: Random, environment: string, key: string, pepper: Uint8Array) {
  await tx`
    insert into api_keys (id, environment_id, name, digest, prefix, scopes, created_at)
    values (${newId('key', random)}, ${environment}, 'credentials.json', ${keyDigest(key, pepper)}, ${keyPrefix(key)},
      ${[...SCOPES]}, now())
    on conflict (digest) do nothing`
}

/** Only into an environment without any ssh key: one that the user has removed does not come back. */
async function openSshKeyRow(tx: Transaction, random: Random, environment: string, text: string): Promise<void> {
  const key = parsePublicKey(text)
  if ('message' in key) throw new Error(`the ssh key of the data directory ${key.message}`)
  await tx`
    insert into ssh_keys (environment_id, id, name, public_key, fingerprint, is_default, created_at)
    select ${environment}, ${newId('ssh', random)}, 'cloudnexus', ${key.line}, ${key.fingerprint}, true,
      environment_now(${environment})
    where not exists (select from ssh_keys where environment_id = ${environment})`
}
