/**
 * The PG* variables of the operator's shell belong to the operator's own programs. node-postgres would read them wherever a
 * connection string is silent: PGSSLMODE and PGPORT would hide the embedded server, PGOPTIONS would change a session. So
 * they are removed when this module is loaded, before the first connection.
 */

const LIBPQ =
  /^PG(APPNAME|CLIENTENCODING|CONNECT_TIMEOUT|DATABASE|HOST|HOSTADDR|OPTIONS|PASSFILE|PASSWORD|PORT|REPLICATION|SERVICE|SSL\w+|USER)$/

/** The names of the variables that were set, and that have no effect. */
export const ignoredVariables: readonly string[] = Object.keys(process.env).filter((name) => LIBPQ.test(name))

for (const name of ignoredVariables) delete process.env[name]
