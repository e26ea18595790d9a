/** `node scripts/check-words.ts [PATH…]`: reports banned words in comments, strings and texts; without a PATH in all files. */
import { join } from 'node:path'
import { checkFiles } from './words/check.ts'

const root = join(import.meta.dirname, '..')
const paths = process.argv.slice(2)
const found = checkFiles(root, paths, paths.length > 0 ? process.cwd() : root)
for (const each of found) process.stdout.write(`${each}\n`)
if (found.length > 0) process.stdout.write(`${found.length} banned words\n`)
process.exitCode = found.length > 0 ? 1 : 0
