/** `npm run bench NAME`: runs bench/NAME.ts. */
import { existsSync, globSync } from 'node:fs'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'

const folder = join(import.meta.dirname, '../bench')
const name = process.argv[2] ?? ''
const file = join(folder, `${name}.ts`)
if (!/^[a-z][a-z-]*$/.test(name) || !existsSync(file)) {
  const names = globSync('*.ts', { cwd: folder }).map((path) => basename(path, '.ts'))
  process.stderr.write(`Usage: npm run bench NAME, where NAME is one of ${names.sort().join(', ')}.\n`)
  process.exit(1)
}
await import(pathToFileURL(file).href)
