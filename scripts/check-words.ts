/** `node scripts/check-words.ts [PATH…]`: refuses banned words in comments, strings and texts; all tracked files without a PATH. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { bannedWords, isChecked } from './words/check.ts'

const root = join(import.meta.dirname, '..')
const list = ['ls-files', '--cached', '--others', '--exclude-standard', '--full-name', '--', ...process.argv.slice(2)]
const cwd = process.argv.length > 2 ? process.cwd() : root
const files = execFileSync('git', list, { cwd, encoding: 'utf8' }).trim().split('\n')
const found = files
  .filter((path) => isChecked(path) && existsSync(join(root, path)))
  .flatMap((path) => bannedWords(path, readFileSync(join(root, path), 'utf8')))

for (const each of found) process.stdout.write(`${each}\n`)
if (found.length > 0) process.stdout.write(`${found.length} banned words\n`)
process.exitCode = found.length > 0 ? 1 : 0
