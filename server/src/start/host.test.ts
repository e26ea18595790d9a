import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { usedBytes } from '../lib/files.ts'
import { descriptorLimit, hostFacts, limitsOf } from './host.ts'

const MIB = 2 ** 20
const folder = mkdtempSync(join(tmpdir(), 'cloudnexus-host-'))
after(() => rmSync(folder, { recursive: true, force: true }))

test('counts the bytes that files occupy, not their sparse length, in all folders', () => {
  const instance = join(folder, 'instances/inst_1')
  assert.equal(usedBytes(join(folder, 'instances')), 0)
  mkdirSync(instance, { recursive: true })
  writeFileSync(join(instance, 'disk.qcow2'), Buffer.alloc(8 * MIB, 1))
  truncateSync(join(instance, 'disk.qcow2'), 1_000 * MIB)
  const used = usedBytes(join(folder, 'instances'))
  assert.ok(used >= 8 * MIB && used < 9 * MIB, `${used}`)
  assert.deepEqual([usedBytes(folder, 2), usedBytes(folder, 3)], [0, used], 'only so many levels of folders')
})

test('the capacity for disks stays the same while instances fill their disks', () => {
  const capacity = { vcpus_per_core: 4, memory_bytes: null, disk_bytes: null }
  const used = usedBytes(join(folder, 'instances'))
  const before = limitsOf(
    capacity,
    hostFacts(folder, () => 1_000 * MIB),
  ).disk_bytes
  writeFileSync(join(folder, 'instances/inst_1/more'), Buffer.alloc(64 * MIB, 1))
  const written = usedBytes(join(folder, 'instances')) - used
  assert.ok(written >= 64 * MIB)
  const after = limitsOf(
    capacity,
    hostFacts(folder, () => 1_000 * MIB - written),
  ).disk_bytes
  assert.equal(after, before)
  assert.equal(before, 4 * (1_000 * MIB + used))
})

test('reads the limit of descriptors', () => {
  assert.equal(descriptorLimit('Max open files            256                  4096                 files     \n'), 256)
  assert.equal(
    descriptorLimit('Max open files            unlimited            unlimited            files     \n'),
    Number.MAX_SAFE_INTEGER,
  )
  assert.ok(descriptorLimit() >= 64)
})
