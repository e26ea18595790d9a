/** The structure that ARCHITECTURE.md describes. Each rule must also refuse its own samples: a broken rule is noticed. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { circles, fileGraph, folderGraph } from './architecture/circles.ts'
import { impurities, isPure, listedPureFiles } from './architecture/purity.ts'
import { RULES } from './architecture/rules.ts'
import { source, sources } from './architecture/source.ts'

const files = sources(import.meta.dirname)
const pure = new Set(files.filter(isPure).map((file) => file.path))
const impure = (path: string, text: string) => impurities(source(path, text), (from) => pure.has(from))

describe('the architecture', () => {
  for (const rule of RULES) {
    test(rule.name, () => {
      const found = files.flatMap((file) => rule.faults(file).map((fault) => `${file.path}: ${fault}`))
      assert.deepEqual(found, [])
      for (const sample of rule.samples)
        assert.notDeepEqual(rule.faults(source(...sample)), [], `the rule accepts its sample ${sample.join(': ')}`)
    })
  }

  test('reads imports as they are written', () => {
    const text =
      "import type { A } from './a.ts'\nimport { type B, c } from '../lib/b.ts'\nconst d = await import('./d.ts')\nexport { e } from './e.ts'"
    const read = source('x/y.ts', text).imports.map(({ from, typeOnly }) => [from, typeOnly])
    assert.deepEqual(read, [
      ['x/a.ts', true],
      ['lib/b.ts', false],
      ['x/e.ts', false],
      ['x/d.ts', false],
    ])
  })
})

describe('purity', () => {
  test('files that are declared pure have no effects and import no impure values', () => {
    const found = files.flatMap((file) => impure(file.path, file.text).map((fault) => `${file.path}: ${fault}`))
    assert.deepEqual(found, [])
    assert.deepEqual(
      listedPureFiles.filter((path) => !pure.has(path)),
      [],
      'a listed file does not exist',
    )
  })

  test('refuses impure files that are declared pure by their name or by their comment', () => {
    const sample = "/** A decision. Pure. */\nimport type { Sql } from '../db/database.ts'\n"
    assert.deepEqual(impure('x/y.ts', sample), [])
    assert.deepEqual(impure('x/y.ts', `${sample}import { load } from '../instances/store.ts'`), [
      'imports load of instances/store.ts',
    ])
    assert.deepEqual(impure('instances/observe.ts', "import { randomBytes } from 'node:crypto'"), [
      'imports randomBytes of node:crypto',
      'randomBytes',
    ])
    const uses = 'const now = new Date()\nMath.random()\nconst row = await sql`select 1`\nclock.now()\nprocess.exit(1)'
    assert.deepEqual(impure('instances/desired.ts', uses), [
      'new Date()',
      'Math.random',
      'await',
      'sql`',
      'clock.now(',
      'process.',
    ])
    assert.deepEqual(impure('instances/store.ts', uses), [])
  })

  test('the decisions of each resource are declared pure', () => {
    const decisions = ['instances/decide.ts', 'instances/observe.ts', 'instances/desired.ts', 'instances/steps.ts']
    const others = ['instances/event-details.ts', 'instances/recovery.ts', 'audit/entry.ts', 'budgets/limits.ts']
    assert.deepEqual(
      [...decisions, ...others].filter((path) => !pure.has(path)),
      [],
    )
  })
})

describe('circles', () => {
  const circle = [
    source('a/one.ts', "import { two } from '../b/two.ts'"),
    source('b/two.ts', "import { three } from './three.ts'"),
    source('b/three.ts', "import type { One } from '../a/one.ts'"),
    source('b/four.ts', "import { five } from '../a/five.ts'"),
  ]

  test('no file imports itself by values or by types', () => {
    assert.deepEqual(circles(fileGraph(files, { types: true })), [])
    assert.deepEqual(circles(fileGraph(circle, { types: false })), [])
    assert.deepEqual(circles(fileGraph(circle, { types: true })), ['a/one.ts → b/two.ts → b/three.ts → a/one.ts'])
  })

  test('no folder imports itself by values', () => {
    assert.deepEqual(circles(folderGraph(files)), [])
    assert.deepEqual(circles(folderGraph(circle)), ['a → b → a'])
    assert.deepEqual(circles(folderGraph(circle.slice(0, -1))), [])
  })
})
