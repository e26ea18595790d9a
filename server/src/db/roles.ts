/**
 * The login roles of an installation: one in cn_app, one in cn_engine (migrations/0002_tenants.sql). Their names contain
 * the installation's ID, so that several installations can share a cluster. Their passwords derive from a secret of the
 * data directory; the server receives only SCRAM verifiers, so that its logs cannot contain a password.
 */
import { createHash, createHmac, pbkdf2Sync } from 'node:crypto'
import pg from 'pg'
import type { Sql } from './database.ts'

const GROUPS = ['cn_app', 'cn_engine'] as const
export type Group = (typeof GROUPS)[number]
/** Advisory lock: two processes must not change a role at the same time. */
const LOCK = 7_202_602
/** PostgreSQL's default. */
const SCRAM_ITERATIONS = 4_096

/** The statements that a superuser has to run so that the owner can create roles in the two groups; null: none. */
export async function missingPrivileges(owner: Sql): Promise<string | null> {
  const [row] = await owner<{ role: string; can_create: boolean; lacks_admin: boolean }[]>`
    select r.rolname as role, r.rolsuper or r.rolcreaterole as can_create,
      not r.rolsuper and current_setting('server_version_num')::int >= 160000 and exists (
        select from pg_roles g
        where g.rolname = any(${[...GROUPS]}) and not pg_has_role(r.oid, g.oid, 'member with admin option')) as lacks_admin
    from pg_roles r where r.rolname = current_user`
  const { role, can_create, lacks_admin } = row!
  const name = pg.escapeIdentifier(role)
  const statements = [
    ...(can_create ? [] : [`alter role ${name} createrole;`]),
    ...(lacks_admin ? [`grant ${GROUPS.join(', ')} to ${name} with admin option;`] : []),
  ]
  return statements.length > 0 ? statements.join(' ') : null
}

/** True if both groups exist; a role that cannot create them can then run the migrations. */
export async function groupsExist(owner: Sql): Promise<boolean> {
  return (await owner`select from pg_roles where rolname = any(${[...GROUPS]})`).count === GROUPS.length
}

/**
 * Creates the login roles, or sets the passwords of existing ones.
 * @param url connection string of the owner
 * @param suffix of the roles' names: the installation's ID
 * @param key the secret from which the passwords derive
 * @returns the connection strings of the roles
 */
export async function openRoles(
  owner: Sql,
  url: string,
  suffix: string,
  key: Uint8Array,
): Promise<Record<Group, string>> {
  const logins = GROUPS.map((group) => {
    const name = `${group}_${suffix}`
    return { group, name, password: createHmac('sha256', key).update(name).digest('base64url') }
  })
  await owner.begin(async (tx) => {
    await tx`select pg_advisory_xact_lock(${LOCK})`
    for (const { group, name, password } of logins) {
      const role = pg.escapeIdentifier(name)
      const known = await tx`select from pg_roles where rolname = ${name}`
      const salt = createHmac('sha256', key).update(`salt of ${name}`).digest().subarray(0, 16)
      const verifier = pg.escapeLiteral(scramVerifier(password, salt))
      await tx.unsafe(`${known.count > 0 ? 'alter' : 'create'} role ${role} login password ${verifier}`)
      const member = await tx`select where pg_has_role(${name}, ${group}, 'member')`
      if (member.count === 0) await tx.unsafe(`grant ${group} to ${role}`)
    }
  })
  return Object.fromEntries(
    logins.map(({ group, name, password }) => [group, withLogin(url, name, password)]),
  ) as Record<Group, string>
}

/** Why row-level security would not apply to this connection's role, or why it is not in the group alone; null: it is fine. */
export async function roleMisconfiguration(sql: Sql, group: Group): Promise<string | null> {
  const other = GROUPS.find((each) => each !== group)!
  const [row] = await sql<Record<'bypasses' | 'owns' | 'is_member' | 'is_in_other', boolean>[]>`
    select r.rolsuper or r.rolbypassrls as bypasses, pg_has_role(r.oid, ${group}, 'usage') as is_member,
      pg_has_role(r.oid, ${other}, 'member') as is_in_other,
      exists (select from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
        and pg_has_role(r.oid, c.relowner, 'member')) as owns
    from pg_roles r where r.rolname = current_user`
  const { bypasses, owns, is_member, is_in_other } = row!
  if (bypasses) return 'bypasses row-level security'
  if (owns) return 'owns tables'
  if (!is_member) return `is not in ${group}`
  return is_in_other ? `is also in ${other}` : null
}

/** The connection string with another user and password. */
export function withLogin(url: string, user: string, password: string): string {
  const [, scheme, hostAndPath, query] = /^(\w+:\/\/)(?:[^@/?]*@)?([^?]*)(?:\?(.*))?$/.exec(url)!
  const parameters = new URLSearchParams(query)
  // These parameters would take precedence over the user and password before the host.
  for (const name of ['user', 'password']) parameters.delete(name)
  const rest = parameters.size > 0 ? `?${parameters}` : ''
  return `${scheme}${encodeURIComponent(user)}:${encodeURIComponent(password)}@${hostAndPath}${rest}`
}

/** The SCRAM-SHA-256 verifier that the server stores for a password (RFC 5803). */
function scramVerifier(password: string, salt: Uint8Array): string {
  const salted = pbkdf2Sync(password, salt, SCRAM_ITERATIONS, 32, 'sha256')
  const keyOf = (text: string) => createHmac('sha256', salted).update(text).digest()
  const stored = createHash('sha256').update(keyOf('Client Key')).digest('base64')
  const parts = [Buffer.from(salt).toString('base64'), stored, keyOf('Server Key').toString('base64')]
  return `SCRAM-SHA-256$${SCRAM_ITERATIONS}:${parts[0]}$${parts[1]}:${parts[2]}`
}
