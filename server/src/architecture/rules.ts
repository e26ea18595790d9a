/** The dependency rule of ARCHITECTURE.md and bans that keep the control plane testable, each with samples that it refuses. */
import { folderOf, isOurs, isResource, isRoutes, isTestCode, type Source } from './source.ts'

/** A rule returns what is wrong in a file. It must find a fault in each of its samples. */
type Rule = { name: string; samples: [path: string, text: string][]; faults: (file: Source) => string[] }

export const RULES: Rule[] = [
  {
    name: 'drivers import drivers/driver.ts, lib and themselves only',
    samples: [['drivers/qemu/driver.ts', "import { load } from '../../instances/store.ts'"]],
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
    samples: [
      ['instances/routes.ts', "import { QemuDriver } from '../drivers/qemu/driver.ts'"],
      ['instances/recovery-routes.ts', "import { QemuDriver } from '../drivers/qemu/driver.ts'"],
      ['instances/console.ts', "import { QemuDriver } from '../drivers/qemu/driver.ts'\napp.get('/v2/a', {}, read)"],
    ],
    faults: (file) =>
      isRoutes(file) ? file.imports.map((each) => each.from).filter((from) => from.startsWith('drivers/')) : [],
  },
  {
    name: 'routes read the database bound to the environment of the request',
    samples: [
      ['instances/routes.ts', 'const row = await find(deps.sql, environment_id, id)'],
      ['webhooks/delivery-routes.ts', 'const row = await find(deps.sql, environment_id, id)'],
    ],
    faults: (file) =>
      isRoutes(file) ? [...file.code.matchAll(/\bdeps\.sql\b(?!\.as\()/g)].map((found) => found[0]) : [],
  },
  {
    name: 'the engine imports no resource',
    samples: [['engine/loop.ts', "import { load } from '../instances/store.ts'"]],
    faults: (file) =>
      file.path.startsWith('engine/') && !isTestCode(file.path)
        ? file.imports
            .map((each) => each.from)
            .filter((from) => isOurs(from) && !/^(db|lib|engine)\/|^deps\.ts$|^events\/outbox\.ts$/.test(from))
        : [],
  },
  {
    name: 'lib and db import no other part, and their tests only the shared test kit',
    samples: [
      ['lib/id.ts', "import { wake } from '../engine/work.ts'"],
      ['lib/id.ts', "import { until } from '../testing/until.ts'"],
      ['db/sql.test.ts', "import { wake } from '../engine/work.ts'"],
    ],
    faults: (file) =>
      /^(lib|db)\//.test(file.path)
        ? file.imports
            .map((each) => each.from)
            .filter((from) => isOurs(from) && !/^(lib|db)\//.test(from))
            .filter((from) => !(isTestCode(file.path) && from.startsWith('testing/')))
        : [],
  },
  {
    name: 'a resource imports only store.ts of another resource',
    samples: [['instances/routes.ts', "import { show } from '../images/present.ts'"]],
    faults: (file) =>
      isResource(file.path) && !isTestCode(file.path)
        ? file.imports
            .filter((each) => !each.typeOnly && isResource(each.from) && folderOf(each.from) !== folderOf(file.path))
            .map((each) => each.from)
            .filter((from) => !from.endsWith('/store.ts'))
        : [],
  },
  {
    name: 'resources and http import no driver',
    samples: [['http/list.ts', "import { QemuDriver } from '../drivers/qemu/driver.ts'"]],
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
  ban('randomness comes from lib/random.ts', /\bMath\.random\(/, 'Math.random()', ['lib/random.ts', 'drivers/']),
  ban('only config.ts reads the environment', /\bprocess\.env\b/, 'process.env.HOME', [
    'config.ts',
    // It removes variables, and uses none.
    'db/environment.ts',
    'drivers/',
    'images/importer/',
  ]),
  {
    name: 'programs are started without a shell',
    samples: [['lib/x.ts', "import { exec } from 'node:child_process'\nspawn(`ls`, [], { shell: true })"]],
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

function ban(name: string, pattern: RegExp, sample: string, allowed: string[]): Rule {
  return {
    name,
    samples: [['instances/store.ts', sample]],
    faults: (file) => {
      if (isTestCode(file.path) || allowed.some((start) => file.path.startsWith(start))) return []
      return [...file.code.matchAll(new RegExp(pattern, 'g'))].map((found) => found[0])
    },
  }
}
