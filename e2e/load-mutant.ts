/**
 * Loaded before the control plane (`node --import`) to run a mutant of it: exact pieces of one module's source are
 * replaced while it is loaded, and no file of the product changes. Each piece must occur exactly once, or the control
 * plane does not start: a mutant that no longer fits fails its test.
 */
import { readFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { MUTANTS, type MutantName } from './mutants.ts'

const name = new URL(import.meta.url).searchParams.get('mutant') as MutantName
const { module, pieces } = MUTANTS[name]
const url = new URL(`../server/src/${module}`, import.meta.url).href
let source = readFileSync(new URL(url), 'utf8')
for (const [right, wrong] of pieces) {
  const found = source.split(right).length - 1
  if (found !== 1) throw new Error(`${name}: ${module} has ${found} times instead of once: ${right}`)
  source = source.replace(right, () => wrong)
}

registerHooks({
  load: (each, context, next) => (each === url ? { ...next(each, context), source } : next(each, context)),
})
