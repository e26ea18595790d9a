/** Whether CloudNexus can use a database, and how many connections it may open: read once at start, before any write. */
import type { Sql } from '../db/database.ts'

/** The first version with UNIQUE NULLS NOT DISTINCT. */
const OLDEST_VERSION = 15
/** Connections of tenants and of the engine; requests and reconcile passes use the former, short statements the latter. */
const DEFAULT_SIZES = { tenants: 40, engine: 20 }
/** The owner's connections, the one that owns the database and the one that listens. */
const OTHER_CONNECTIONS = 4
/** For other clients of the server, such as psql and a backup. */
const FREE_SHARE = 0.2
const LEAST_CONNECTIONS = 12

export type Facts = {
  version_number: number
  version: string
  encoding: string
  is_standby: boolean
  is_read_only: boolean
  replication_role: string
  has_schema: boolean
  /** Whether the role may create tables in the schema public. */
  can_create: boolean
  role: string
  /** Connections that the role may open: the least of the limits of server, database and role. */
  connection_limit: number
}
export type PoolSizes = { tenants: number; engine: number }

/** Reads what `unsuitable` and `poolSizes` decide on. */
export async function readFacts(owner: Sql): Promise<Facts> {
  const [row] = await owner<Facts[]>`
    select current_setting('server_version_num')::int as version_number,
      split_part(current_setting('server_version'), ' ', 1) as version,
      current_setting('server_encoding') as encoding, pg_is_in_recovery() as is_standby,
      current_setting('transaction_read_only')::bool as is_read_only,
      current_setting('session_replication_role') as replication_role,
      to_regnamespace('public') is not null as has_schema,
      coalesce(has_schema_privilege(to_regnamespace('public'), 'create'), false) as can_create,
      current_user::text as role,
      least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
          - coalesce(current_setting('reserved_connections', true), '0')::int,
        nullif(d.datconnlimit, -1), nullif(r.rolconnlimit, -1)) as connection_limit
    from pg_database d, pg_roles r where d.datname = current_database() and r.rolname = current_user`
  return row!
}

/**
 * Why the database cannot be used and what to change, in one line without the variable's name; null: it can be used.
 * @param hasTables whether an earlier start has created the tables: then the role needs no right to create any
 */
export function unsuitable(facts: Facts, hasTables: boolean): string | null {
  const { version_number, version, encoding, role } = facts
  if (version_number < OLDEST_VERSION * 10_000)
    return `is a PostgreSQL ${version}; version ${OLDEST_VERSION} or newer is required.`
  if (facts.is_standby) return 'is a standby, which accepts no writes. Use the URL of the primary server.'
  if (facts.is_read_only) {
    return 'is read-only by the setting default_transaction_read_only of the server, the database or the role. Reset it, or use another database.'
  }
  if (encoding !== 'UTF8') {
    return `has the encoding ${encoding}; UTF8 is required. Use one created with: create database … encoding 'UTF8' template template0`
  }
  if (facts.replication_role !== 'origin') {
    return 'has triggers disabled by the setting session_replication_role of the database or the role. Reset it.'
  }
  if (!facts.has_schema) return 'has no schema public. Run: create schema public'
  if (!facts.can_create && !hasTables) {
    return `does not let the role ${role} create tables. Run in it, as its owner or a superuser: grant create on schema public to "${role}"`
  }
  if (poolSizes(facts.connection_limit) === null) {
    return `allows ${facts.connection_limit} connections; CloudNexus needs at least ${Math.ceil(LEAST_CONNECTIONS / (1 - FREE_SHARE))}. Raise max_connections, or the limit of the database or the role.`
  }
  return null
}

/** The sizes of the two pools, so that all connections together fit the limit; null when too few are left. */
export function poolSizes(connectionLimit: number): PoolSizes | null {
  const usable = Math.floor(connectionLimit * (1 - FREE_SHARE))
  if (usable < LEAST_CONNECTIONS) return null
  const { tenants, engine } = DEFAULT_SIZES
  const share = Math.min(1, (usable - OTHER_CONNECTIONS) / (tenants + engine))
  return { tenants: Math.floor(tenants * share), engine: Math.floor(engine * share) }
}
