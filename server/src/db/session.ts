/**
 * What every session is set to. An operator's database, its server and the role of the connection can have defaults of their
 * own, on which the meaning of our statements must not depend: how dates are written, which isolation level a transaction
 * has, in which schema a table is.
 */
import type pg from 'pg'

/** Names as in pg_settings. A server that lacks a setting, because it is older, ignores it. */
export const SESSION_SETTINGS: Readonly<Record<string, string>> = {
  DateStyle: 'ISO, MDY',
  IntervalStyle: 'postgres',
  TimeZone: 'UTC',
  array_nulls: 'on',
  bytea_output: 'hex',
  check_function_bodies: 'on',
  default_transaction_deferrable: 'off',
  default_transaction_isolation: 'read committed',
  extra_float_digits: '1',
  idle_in_transaction_session_timeout: '0',
  idle_session_timeout: '0',
  lock_timeout: '0',
  row_security: 'on',
  search_path: 'public',
  standard_conforming_strings: 'on',
  statement_timeout: '0',
  transaction_timeout: '0',
  transform_null_equals: 'off',
}

const VALUES = Object.entries(SESSION_SETTINGS)
  .map(([name, value]) => `('${name}', '${value}')`)
  .join(', ')
const TIMEOUT_MS = 10_000

/** One message; without a timeout first. `role` is not in pg_settings: a role can have another one as its default. */
const STATEMENTS = `set statement_timeout = 0; set role none;
  select set_config(name, value, false) from (values ${VALUES}) wanted (name, value)
  join pg_catalog.pg_settings using (name) where setting is distinct from value`

/** Sets the session of a new connection, before its first statement. */
export async function pinSession(client: pg.ClientBase): Promise<void> {
  const query = { text: STATEMENTS, query_timeout: TIMEOUT_MS }
  await client.query(query)
}
