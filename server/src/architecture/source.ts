/** Source files as the architecture test reads them. */
import { globSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'

export type Import = { names: string; from: string; typeOnly: boolean }

/** `code` is the text without comments; relative imports are paths below src. */
export type Source = { path: string; text: string; code: string; imports: Import[] }

/** Folders below src that are no resource. */
const LAYERS = [
  'architecture',
  'db',
  'drivers',
  'engine',
  'http',
  'lib',
  'start',
  'events',
  'addresses',
  'fuzz',
  'jobs',
  'matrix',
  'simulation',
  'testing',
  'authority',
  'writes',
]

/** Every file below src except for the architecture test and its samples. */
export function sources(root: string): Source[] {
  return globSync('**/*.ts', { cwd: root })
    .filter((path) => path !== 'architecture.test.ts' && folderOf(path) !== 'architecture')
    .sort()
    .map((path) => source(path, readFileSync(join(root, path), 'utf8')))
}

export function source(path: string, text: string): Source {
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

/** Names of the values that an import brings in, without its types. */
export function valueNames({ names }: Import): string[] {
  return names
    .replace(/[{}]/g, '')
    .split(',')
    .map((name) => name.trim().replace(/\s+as\s+.*$/, ''))
    .filter((name) => name !== '' && !name.startsWith('type '))
}

export function isOurs(from: string): boolean {
  return from.endsWith('.ts')
}

export function isTestCode(path: string): boolean {
  return /\.test\.ts$|(^|\/)(testing(-[\w-]+)?|conformance|test-server)\.ts$|^(fuzz|matrix|simulation|testing)\//.test(
    path,
  )
}

/** The first folder of the path: a resource or a layer. */
export function folderOf(path: string): string {
  return path.split('/')[0]!
}

export function isResource(path: string): boolean {
  return isOurs(path) && path.includes('/') && !LAYERS.includes(folderOf(path))
}

/** A file that registers routes, by its name or by its content. */
export function isRoutes({ path, code }: Source): boolean {
  if (isTestCode(path) || !path.includes('/')) return false
  return path.endsWith('routes.ts') || /\b(app|scope|server)\.(get|post|put|patch|delete|route)\s*[(<]/.test(code)
}
