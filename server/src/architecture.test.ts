/**
 * The dependency rule of ARCHITECTURE.md and the bans that keep the control plane testable, as a test. Each rule is also
 * shown a small wrong file, so that a rule which has stopped to work is noticed.
 */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { describe, test } from 'node:test'

type Import = { names: string; from: string; typeOnly: boolean }
type Source = { path: string; text: string; code: string; imports: Import[] }
type Rule = { name: string; sample: [path: string, text: string]; faults: (file: Source) => string[] }

/** Folders below src that are no resource. */
const LAYERS = [
  'db',
  'drivers',
  'engine',
  'http',
  'lib',
  'start',
  'events',
  'addresses',
  'fuzz',
  'matrix',
  'simulation',
  'testing',
]
const ROOTS = [
  'main.ts',
  'control-plane.ts',
  'app.ts',
  'resources.ts',
  'reconcilers.ts',
  'teardown.ts',
  'config.ts',
  'deps.ts',
]

const RULES: Rule[] = [
  {
    name: 'plan, status, recovery, decide and policies are pure: they import types only',
    sample: ['instances/plan.ts', "import { sql } from '../db/database.ts'"],
    faults: (file) =>
      /(^|\/)(plan|status|recovery|decide)\.ts$|\/policies\//.test(file.path) && !file.path.includes('importer/')
        ? file.imports.filter((each) => !each.typeOnly && !isPure(each.from)).map((each) => each.from)
        : [],
  },
  {
    name: 'drivers know drivers/driver.ts, lib and themselves',
    sample: ['drivers/qemu/driver.ts', "import { load } from '../../instances/store.ts'"],
    faults: (file) => {
      const own = file.path.match(/^drivers\/[^/]+\//)?.[0]
      if (!own || isTestCode(file.path)) return []
      const allowed = [own, 'drivers/driver.ts', 'lib/']
      return file.imports
        .filter((each) => isOurs(each.from) && !allowed.some((start) => each.from.startsWith(start)))
        .filter((each) => !(each.typeOnly && each.from === 'db/database.ts'))
        .map((each) => each.from)
    },
  },
  {
    name: 'routes do not import drivers',
    sample: ['instances/routes.ts', "import { QemuDriver } from '../drivers/qemu/driver.ts'"],
    faults: (file) =>
      file.path.endsWith('/routes.ts')
        ? file.imports.map((each) => each.from).filter((from) => from.startsWith('drivers/'))
        : [],
  },
  {
    name: 'routes reach the database bound to the tenant who asks',
    sample: ['instances/routes.ts', 'const row = await find(deps.sql, environment_id, id)'],
    faults: (file) =>
      file.path.endsWith('/routes.ts')
        ? [...file.code.matchAll(/\bdeps\.sql\b(?!\.as\()/g)].map((found) => found[0])
        : [],
  },
  {
    name: 'the engine imports no resource',
    sample: ['engine/loop.ts', "import { load } from '../instances/store.ts'"],
    faults: (file) =>
      file.path.startsWith('engine/') && !isTestCode(file.path)
        ? file.imports
            .map((each) => each.from)
            .filter((from) => isOurs(from) && !/^(db|lib|engine)\/|^deps\.ts$|^events\/outbox\.ts$/.test(from))
        : [],
  },
  {
    name: 'lib and db import no other part',
    sample: ['lib/id.ts', "import { wake } from '../engine/work.ts'"],
    faults: (file) =>
      /^(lib|db)\//.test(file.path)
        ? file.imports.map((each) => each.from).filter((from) => isOurs(from) && !/^(lib|db)\//.test(from))
        : [],
  },
  {
    name: 'one resource reaches another through its store.ts',
    sample: ['instances/routes.ts', "import { show } from '../images/present.ts'"],
    faults: (file) =>
      isResource(file.path) && !isTestCode(file.path)
        ? file.imports
            .filter((each) => !each.typeOnly && isResource(each.from) && folderOf(each.from) !== folderOf(file.path))
            .map((each) => each.from)
            .filter((from) => !from.endsWith('/store.ts'))
        : [],
  },
  {
    name: 'only the composition root and the reconcilers reach a driver',
    sample: ['http/list.ts', "import { QemuDriver } from '../drivers/qemu/driver.ts'"],
    faults: (file) =>
      isResource(file.path) || file.path.startsWith('http/')
        ? file.imports
            .filter((each) => /^drivers\/[^/]+\//.test(each.from) && !isTestCode(file.path))
            .map((each) => each.from)
        : [],
  },
  ban('time comes from lib/clock.ts', /\bDate\.now\(|\bnew Date\(\s*\)|\bset(Timeout|Interval)\(/, 'Date.now()', [
    'lib/clock.ts',
    'drivers/',
    'images/importer/',
  ]),
  ban('chance comes from lib/random.ts', /\bMath\.random\(/, 'Math.random()', ['lib/random.ts', 'drivers/']),
  ban('only config.ts reads the environment', /\bprocess\.env\b/, 'process.env.HOME', [
    'config.ts',
    'drivers/',
    'images/importer/',
  ]),
  {
    name: 'no shell between us and a program',
    sample: ['lib/x.ts', "import { exec } from 'node:child_process'\nspawn(`ls`, [], { shell: true })"],
    faults: (file) => [
      ...file.imports
        .filter((each) => each.from === 'node:child_process' && /\bexec(Sync)?\b/.test(each.names))
        .map((each) => each.names),
      ...[...file.code.matchAll(/\bshell: *(true|['"`])|\b(spawn|spawnSync|execFile|execFileSync)\(\s*`/g)].map(
        (found) => found[0],
      ),
    ],
  },
]

const files = globSync('**/*.ts', { cwd: import.meta.dirname })
  .filter((path) => path !== 'architecture.test.ts')
  .sort()
  .map((path) => source(path, readFileSync(join(import.meta.dirname, path), 'utf8')))

describe('the architecture', () => {
  for (const rule of RULES) {
    test(rule.name, () => {
      const found = files.flatMap((file) => rule.faults(file).map((fault) => `${file.path}: ${fault}`))
      assert.deepEqual(found, [])
      assert.notDeepEqual(rule.faults(source(...rule.sample)), [], 'the rule does not see its own sample')
    })
  }

  test('imports are read as they are written', () => {
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

  test('no file imports itself in a circle by values', () => {
    const graph = new Map(
      files.map((file) => [
        file.path,
        file.imports.filter((each) => !each.typeOnly && isOurs(each.from)).map((each) => each.from),
      ]),
    )
    assert.deepEqual(circles(graph), [])
    assert.equal(
      circles(
        new Map([
          ['a.ts', ['b.ts']],
          ['b.ts', ['a.ts']],
        ]),
      ).length,
      1,
    )
  })
})

function ban(name: string, pattern: RegExp, sample: string, allowed: string[]): Rule {
  return {
    name,
    sample: ['instances/store.ts', sample],
    faults: (file) => {
      if (isTestCode(file.path) || allowed.some((start) => file.path.startsWith(start))) return []
      return [...file.code.matchAll(new RegExp(pattern, 'g'))].map((found) => found[0])
    },
  }
}

/** Comments are taken out (`code`), relative imports become paths below src. */
function source(path: string, text: string): Source {
  const code = text.replace(/\/\*[\s\S]*?\*\/|(?<=^|\s)\/\/.*$/gm, '')
  const resolve = (from: string) => (from.startsWith('.') ? normalize(join(dirname(path), from)) : from)
  const statics = [...code.matchAll(/^(import|export)\s+([^'"]*?)\s*from\s+['"]([^'"]+)['"]/gm)].map((found) => ({
    names: found[2]!,
    from: resolve(found[3]!),
    typeOnly: /^type\s/.test(found[2]!) || /^\{(\s*type [^,}]+,?)+\s*\}$/.test(found[2]!),
  }))
  const dynamic = [...code.matchAll(/\bimport\(\s*['"]([^'"]+)['"]/g)].map((found) => ({
    names: '',
    from: resolve(found[1]!),
    typeOnly: false,
  }))
  return { path, text, code, imports: [...statics, ...dynamic] }
}

function circles(graph: Map<string, string[]>): string[] {
  const done = new Set<string>()
  const found: string[] = []
  const visit = (path: string, trail: string[]) => {
    if (trail.includes(path)) return void found.push([...trail.slice(trail.indexOf(path)), path].join(' → '))
    if (done.has(path)) return
    done.add(path)
    for (const next of graph.get(path) ?? []) visit(next, [...trail, path])
  }
  for (const path of graph.keys()) visit(path, [])
  return found
}

function isOurs(from: string): boolean {
  return from.endsWith('.ts')
}

/** A pure file may use what is pure itself. */
function isPure(from: string): boolean {
  return /(^|\/)(plan|status|recovery|decide|row|present)\.ts$|^lib\//.test(from)
}

function isTestCode(path: string): boolean {
  return /\.test\.ts$|(^|\/)(testing(-\w+)?|conformance|test-server)\.ts$|^(fuzz|matrix|simulation|testing)\//.test(
    path,
  )
}

function folderOf(path: string): string {
  return path.split('/')[0]!
}

function isResource(path: string): boolean {
  return isOurs(path) && path.includes('/') && !LAYERS.includes(folderOf(path)) && !ROOTS.includes(path)
}
