/**
 * Which files are pure: the same arguments give the same result, and nothing else happens. A file is declared pure by
 * its first comment ("Pure.") or by its place in these lists. A pure file imports values from pure files only.
 */
import { isOurs, isTestCode, type Source, valueNames } from './source.ts'

const PURE_NAMES =
  /(^|\/)(decide|desired|event-details|observe|plan|present|privileges|recovery|row|show|status|steps|strength)\.ts$|\/policies\//

const PURE_FILES = [
  'drivers/driver.ts',
  'drivers/simulated/timing.ts',
  'events/catalog.ts',
  'images/importer/errors.ts',
  'images/importer/qcow2.ts',
  'images/importer/text.ts',
  'images/source.ts',
  'keys/scopes.ts',
  'lib/canonical-json.ts',
  'lib/difference.ts',
  'lib/errors.ts',
  'lib/timestamp.ts',
]

/** Pure functions of packages and of files that are not pure as a whole; null: all of them. */
const PURE_FUNCTIONS: Record<string, string[] | null> = {
  'ipaddr.js': null,
  'lib/id.ts': ['ID_LENGTHS', 'isId'],
  'lib/random.ts': ['seededRandom'],
  'node:crypto': ['createHash', 'createHmac'],
  'node:net': ['isIP', 'isIPv4', 'isIPv6'],
  'node:path': null,
  'node:util': ['isDeepStrictEqual'],
  typebox: null,
}

/** Time, randomness, the database, the process and everything that waits. */
const EFFECTS =
  /\bDate\.now\b|\bnew Date\(\s*\)|\bperformance\.|\bMath\.random\b|\brandom(Bytes|UUID|Int|FillSync)\b|(?<![.\w])(set(Timeout|Interval|Immediate)|queueMicrotask|fetch)\(|\bsql[`(<]|\b(clock|random)\.\w+\(|(?<![.\w])process\.|\bconsole\.|\basync\b|\bawait\b/g

export function isPure(file: Source): boolean {
  if (isTestCode(file.path)) return false
  const [comment = ''] = file.text.match(/\/\*\*[\s\S]*?\*\//) ?? []
  return (PURE_NAMES.test(file.path) && !file.path.includes('importer/')) || isListed(file.path) || saysPure(comment)
}

/** What a pure file must not contain. `isPurePath` decides about the files that it imports. */
export function impurities(file: Source, isPurePath: (path: string) => boolean): string[] {
  if (!isPure(file)) return []
  const imports = file.imports
    .filter((each) => !each.typeOnly && !(isOurs(each.from) && isPurePath(each.from)))
    .flatMap((each) => {
      const allowed = PURE_FUNCTIONS[each.from]
      if (allowed === null) return []
      const names = valueNames(each).filter((name) => !allowed?.includes(name))
      return allowed && names.length === 0 ? [] : [`imports ${names.join(', ')} of ${each.from}`]
    })
  return [...imports, ...[...file.code.matchAll(EFFECTS)].map((found) => found[0])]
}

/** The listed files, so that a test can see that each of them exists. */
export const listedPureFiles: readonly string[] = PURE_FILES

function isListed(path: string): boolean {
  return PURE_FILES.includes(path)
}

function saysPure(comment: string): boolean {
  return /\bpure\b[.;,]/i.test(comment)
}
