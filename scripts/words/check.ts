/** Finds banned words in the prose of the project's files. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { BANNED_WORDS } from './banned.ts'
import { proseOf } from './prose.ts'

/** Files that list the banned words, or that are made from others. */
const EXEMPT = /^(scripts\/words\/(banned|words\.test)\.ts|server\/schema\.sql|package-lock\.json)$/

/** These quote the words that one does not write, as inline code. */
const QUOTING = /^(docs\/glossary|CONTRIBUTING)\.md$/

/** The user of Unix, written as code. */
const ALLOWED = /`nobody`/g

const PROSE_FILES =
  /\.(ts|mjs|js|sh|sql|md|json|html|css)$|^\.ci\/run$|^images\/.*\/(init|rootfs\/usr\/.*|rootfs\/etc\/inittab)$/

/** Whether the check reads this file; paths are relative to the repository. */
export function isChecked(path: string): boolean {
  return PROSE_FILES.test(path) && !EXEMPT.test(path)
}

/** Banned words in the files of the repository, ignored files left out. @param paths relative to `cwd`; none: all files */
export function checkFiles(root: string, paths: string[] = [], cwd = root): string[] {
  const list = ['ls-files', '--cached', '--others', '--exclude-standard', '--full-name', '--', ...paths]
  return execFileSync('git', list, { cwd, encoding: 'utf8' })
    .split('\n')
    .filter((path) => isChecked(path) && existsSync(join(root, path)))
    .flatMap((path) => bannedWords(path, readFileSync(join(root, path), 'utf8')))
}

/** One line for each banned word: the position, the word and what to write instead. */
export function bannedWords(path: string, text: string): string[] {
  let prose = proseOf(path, text)
  if (QUOTING.test(path)) prose = prose.replace(/`[^`\n]*`/g, (code) => code.replace(/\S/g, '\0'))
  prose = prose.replace(ALLOWED, (name) => '\0'.repeat(name.length))
  return BANNED_WORDS.flatMap(({ pattern, instead }) =>
    [...prose.matchAll(pattern)].map((found) => ({ index: found.index, word: found[0].replace(/\s+/g, ' '), instead })),
  )
    .sort((a, b) => a.index - b.index)
    .map(({ index, word, instead }) => `${position(path, text, index)}: "${word}": write ${instead}`)
}

function position(path: string, text: string, index: number): string {
  const before = text.slice(0, index).split('\n')
  return `${path}:${before.length}:${before.at(-1)!.length + 1}`
}
