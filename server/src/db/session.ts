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

const TIMEOUT_MS = 10_000

/** One message; without a timeout first. `role` is not in pg_settings: a role can have another one as its default. */
const statementsFor = (settings: Readonly<Record<string, string>>): string => {
  const values = Object.entries(settings).map(([name, value]) => `('${name}', '${value}')`)
  return `set statement_timeout = 0; set role none;
    select set_config(name, value, false) from (values ${values.join(', ')}) wanted (name, value)
    join pg_catalog.pg_settings using (name) where setting is distinct from value`
}
const STATEMENTS = statementsFor(SESSION_SETTINGS)

/**
 * Sets the session of a new connection, before its first statement.
 * @param searchPath in place of the usual one, for a test whose functions replace those of the server
 */
export async function pinSession(client: pg.ClientBase, searchPath?: string): Promise<void> {
  const text = searchPath === undefined ? STATEMENTS : statementsFor({ ...SESSION_SETTINGS, search_path: searchPath })
  const query = { text, query_timeout: TIMEOUT_MS }
  await client.query(query)
}
