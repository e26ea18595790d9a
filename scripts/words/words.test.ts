import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bannedWords, isChecked } from './check.ts'
import { proseOf } from './prose.ts'

const words = (path: string, text: string) => bannedWords(path, text).map((each) => each.replace(/: write .*/, ''))

test('reports the position, the word and what to write instead', () => {
  assert.deepEqual(bannedWords('a.md', 'One\ntwo wishes'), ['a.md:2:5: "wishes": write desired state, desired change'])
})

test('refuses banned words in comments, strings and templates of a script', () => {
  assert.deepEqual(words('a.ts', '// it looks\n'), ['a.ts:1:7: "looks"'])
  assert.deepEqual(words('a.ts', '/**\n * It goes\n * away for\n * good.\n */\n'), ['a.ts:3:9: "for good"'])
  assert.deepEqual(words('a.ts', "const a = 'a stranger'"), ['a.ts:1:14: "stranger"'])
  assert.deepEqual(words('a.ts', 'throw new Error(`no such\n thing $' + '{look({ a: `told` })}`)'), [
    'a.ts:1:21: "such thing"',
    'a.ts:2:21: "told"',
  ])
})

test('ignores identifiers, regular expressions and other words', () => {
  assert.deepEqual(words('a.ts', "look(tell.bell)\nconst quote = /['\"`] it's/\nwish()\n"), [])
  assert.deepEqual(words('a.ts', "const half = a / b // a ratio\nlook('b' /* c */)"), [])
  assert.deepEqual(words('a.ts', "f('look up', 'lookup', 'looks\\n  up', 'planet', 'let', 'go')"), [])
})

test('allows the name of a Unix user, and no other use of it', () => {
  assert.deepEqual(words('a.ts', '// runs as `nobody`, because nobody owns files'), ['a.ts:1:30: "nobody"'])
})

test('refuses banned words in SQL, shell scripts, Markdown, HTML and package.json', () => {
  assert.deepEqual(words('a.sql', "select look -- whoever\n  , 'it''s told'"), [
    'a.sql:1:16: "whoever"',
    'a.sql:2:12: "told"',
  ])
  assert.deepEqual(words('a.sh', 'look # patience\necho "a bell" $#'), ['a.sh:1:8: "patience"', 'a.sh:2:9: "bell"'])
  assert.deepEqual(words('.ci/run', "echo 'takes turns'"), ['.ci/run:1:7: "takes turns"'])
  assert.deepEqual(words('a.html', '<look title="somebody">A wish</look>'), [
    'a.html:1:14: "somebody"',
    'a.html:1:26: "wish"',
  ])
  assert.deepEqual(words('package.json', '{ "description": "rehearsals" }'), ['package.json:1:19: "rehearsals"'])
})

test('lets the glossary quote the words that it replaces', () => {
  assert.deepEqual(words('docs/glossary.md', 'desired state | not `wish`, wish'), ['docs/glossary.md:1:29: "wish"'])
})

test('keeps the length and the lines of a text', () => {
  const text = 'const a = `b $' + "{c['d']} e` // f\n/* g\n * h */ i = /j'k/.test('l')\n"
  const prose = proseOf('a.ts', text)
  assert.equal(prose.length, text.length)
  assert.equal(prose.replace(/[\0\s]+/g, ' ').trim(), "b 'd' e f g h */ 'l'")
})

test('reads the texts of the repository and not what is made from them', () => {
  const paths = [
    'README.md',
    'server/src/app.ts',
    '.ci/run',
    'server/schema.sql',
    'package-lock.json',
    'docs/instance.png',
  ]
  assert.deepEqual(paths.filter(isChecked), ['README.md', 'server/src/app.ts', '.ci/run'])
})
