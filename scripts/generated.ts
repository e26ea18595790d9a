import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { settingsTable } from '../server/src/config/help.ts'
import { connect } from '../server/src/db/database.ts'
import { migrate } from '../server/src/db/migrate.ts'
import { dumpSchema } from '../server/src/db/schema-dump.ts'
import { startTestServer } from '../server/src/db/test-server.ts'
import { generateOpenapi } from './generate-openapi.ts'

const root = join(import.meta.dirname, '..')

/** A file that is generated from others: its path and its expected text. */
export type GeneratedFile = { path: string; text: string }

/** Generates every file that is generated and committed. */
export async function generateAll(): Promise<GeneratedFile[]> {
  const settings = 'docs/configuration.md'
  return [
    { path: 'server/schema.sql', text: await schema() },
    { path: 'openapi.json', text: await generateOpenapi() },
    { path: settings, text: withTable(readFileSync(join(root, settings), 'utf8'), settingsTable()) },
  ]
}

/** The text with a new table between its markers; unchanged if it has none. */
export function withTable(text: string, table: string): string {
  return text.replace(
    /(<!-- settings -->\n)[\s\S]*?(<!-- \/settings -->)/,
    (_, open, close) => `${open}${table}\n${close}`,
  )
}

async function schema(): Promise<string> {
  const given = process.env.TEST_DATABASE_URL
  const server = given ? null : await startTestServer()
  const admin = connect({ url: given ?? server!.url, max: 1, name: 'generate' })
  const name = `generate_${process.pid}`
  try {
    await admin.unsafe(`create database ${name}`)
    const sql = connect({
      url: (given ?? server!.url).replace(/\/[^/?]*(\?|$)/, `/${name}$1`),
      max: 1,
      name: 'generate',
    })
    await migrate(sql)
    const text = await dumpSchema(sql)
    await sql.end()
    return text
  } finally {
    await admin.unsafe(`drop database if exists ${name} with (force)`)
    await admin.end()
    await server?.stop()
  }
}
