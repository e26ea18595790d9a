/**
 * Loaded before the control plane (`node --import`), plants one bug in it: exact pieces of one module's source are
 * replaced while it is loaded, and nothing of the product is edited. Each piece must be there exactly once, or the
 * control plane does not start: a plant that no longer fits is noticed.
 */
import { readFileSync } from 'node:fs'
import { registerHooks } from 'node:module'
import { PLANTS, type PlantName } from './plants.ts'

const name = new URL(import.meta.url).searchParams.get('plant') as PlantName
const { module, pieces } = PLANTS[name]
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
