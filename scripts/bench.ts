/** `npm run bench NAME [-- options]`: runs bench/NAME.ts. */
import { spawn } from 'node:child_process'
import { existsSync, globSync } from 'node:fs'
import { basename, join } from 'node:path'

const folder = join(import.meta.dirname, '../bench')
const [name = '', ...rest] = process.argv.slice(2)
const file = join(folder, `${name}.ts`)
if (!/^[a-z][a-z-]*$/.test(name) || !existsSync(file)) {
  const known = globSync('*.ts', { cwd: folder }).map((path) => basename(path, '.ts'))
  process.stderr.write(`npm run bench NAME, where NAME is one of: ${known.sort().join(', ') || '(none yet)'}\n`)
  process.exit(1)
}
spawn(process.execPath, [file, ...rest], { stdio: 'inherit' }).on('close', (code) => process.exit(code ?? 1))
