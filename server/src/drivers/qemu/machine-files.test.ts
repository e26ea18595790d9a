import assert from 'node:assert/strict'
import { mkdir, mkdtemp, open, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import { InvalidSpecError, TransientError } from '../driver.ts'
import { appendBounded, readTail } from './console-log.ts'
import {
  checkRoots,
  machinePaths,
  readMachine,
  readRun,
  scratchName,
  scratchOwner,
  writeJson,
} from './machine-files.ts'

const ID = 'inst_0123456789'

describe('machine files', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'files-'))
  })
  after(() => rm(folder, { recursive: true }))

  test('only a well-formed ID becomes a path', () => {
    const roots = { data_dir: '/d', run_dir: '/r' }
    assert.equal(machinePaths(roots, ID).disk, `/d/instances/${ID}/disk.qcow2`)
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.string().map((text) => ID + text),
        ),
        (id) => {
          fc.pre(!/^inst_[0-9a-z]{10}$/.test(id))
          assert.throws(() => machinePaths(roots, id), InvalidSpecError)
        },
      ),
    )
    for (const id of [`${ID}\n`, `${ID}/..`, '..', '', 'inst_0123456789a', 'inst_012345678A'])
      assert.throws(() => machinePaths(roots, id), InvalidSpecError)
  })

  test('rejects unusable folders', () => {
    checkRoots({ data_dir: '/d', run_dir: `/${'r'.repeat(73)}` })
    assert.throws(() => checkRoots({ data_dir: '/d', run_dir: `/${'r'.repeat(74)}` }), /too long/)
    for (const data_dir of ['relative', '', '/a\nb', '/a\0b'])
      assert.throws(() => checkRoots({ data_dir, run_dir: '/r' }))
  })

  test('a scratch name contains the machine ID', () => {
    assert.equal(scratchOwner(scratchName(ID, 'new')), ID)
    assert.equal(scratchOwner(scratchName(ID, 'old')), ID)
    for (const name of [ID, `${ID}.new`, `${ID}.new.123`, `x${ID}.new.01234567`]) assert.equal(scratchOwner(name), null)
  })

  test('readers see the old or the new content of a replaced file', async () => {
    const file = join(folder, 'replaced.json')
    const text = 'x'.repeat(100_000)
    await writeJson(file, { number: 0, text })
    let done = false
    const writing = (async () => {
      for (let number = 1; number <= 20; number++) await writeJson(file, { number, text })
      done = true
    })()
    for (let last = 0; !done; ) {
      const { number, text: read } = JSON.parse(await readFile(file, 'utf8'))
      assert.ok(number >= last && read === text)
      last = number
    }
    await writing
    assert.equal((await stat(file)).mode & 0o777, 0o600)
    assert.deepEqual(
      (await readdir(folder)).filter((name) => name.startsWith('.')),
      [],
    )
  })

  test('returns null for an absent file and throws TransientError for a damaged one', async () => {
    const roots = { data_dir: folder, run_dir: '/r' }
    const paths = machinePaths(roots, ID)
    assert.equal(await readRun(paths), null)
    await mkdir(paths.directory, { recursive: true })
    for (const text of ['', '{', '[]', 'null', '{"run":1}', '3']) {
      await writeFile(paths.run_file, text)
      await assert.rejects(readRun(paths), TransientError)
    }
    assert.equal(await readMachine(paths), null)
  })

  test('reads the end of a log, and follows no link', async () => {
    const log = join(folder, 'console.log')
    assert.equal((await readTail(log, 10)).length, 0)
    await writeFile(log, 'line 998\nline 999\n')
    assert.equal((await readTail(log, 9)).toString(), 'line 999\n')
    const link = join(folder, 'link')
    await symlink(log, link)
    assert.equal((await readTail(link, 10)).length, 0)
    await appendBounded(link, Buffer.from('x'), { max_bytes: 1, keep_bytes: 1 })
    assert.equal((await stat(log)).size, 18)
  })

  test('keeps a log within its bounds: its end, from the beginning of a line, and the first lines if required', async () => {
    const log = join(folder, 'bounded.log')
    const bounds = { max_bytes: 1000, keep_bytes: 100, head_bytes: 20 }
    for (let line = 0; line < 1000; line++) {
      await appendBounded(log, Buffer.from(`line ${line}\n`), bounds)
      assert.ok((await stat(log)).size <= 1000)
    }
    assert.match(await readFile(log, 'utf8'), /^line 0\nline 1\n(line \d+\n)+line 999\n$/)
    await appendBounded(log, Buffer.from(`${'x'.repeat(5000)}\nend\n`), bounds)
    assert.match(await readFile(log, 'utf8'), /^line 0\nline 1\nend\n$/)
    const { head_bytes, ...plain } = bounds
    await appendBounded(log, Buffer.alloc(5000, 'y'), plain)
    assert.equal((await stat(log)).size, 100, 'a line longer than the log')
  })

  test('keeps a file within its bounds that another process writes', async () => {
    const log = join(folder, 'foreign.log')
    const writer = await open(log, 'a')
    for (let line = 0; line < 1000; line++) await writer.write(`line ${line}\n`)
    await appendBounded(log, Buffer.alloc(0), { max_bytes: 1000, keep_bytes: 100 })
    await writer.write('after\n')
    await writer.close()
    assert.match(await readFile(log, 'utf8'), /^line 989\n[^\0]*line 999\nafter\n$/)
    await appendBounded(join(folder, 'absent'), Buffer.alloc(0), { max_bytes: 1, keep_bytes: 1 })
    assert.ok(!(await readdir(folder)).includes('absent'))
  })
})
