import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { generateAll } from './generated.ts'

for (const { path, text } of await generateAll()) {
  const file = join(import.meta.dirname, '..', path)
  const before = readOrNull(file)
  if (before !== text) writeFileSync(file, text)
  process.stdout.write(`${before === text ? 'unchanged' : 'written  '} ${path}\n`)
}

function readOrNull(file: string): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return null
  }
}
