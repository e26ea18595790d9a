import assert from 'node:assert/strict'
import { access, readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type ProofOptions, proveAccelerator } from './accelerator.ts'
import { instancesFolder } from './machine-files.ts'
import { findMachineProcesses } from './process.ts'
import { PROOF_FOLDER } from './teardown.ts'
import { makeWorld, type World } from './testing.ts'

describe('proveAccelerator', () => {
  let world: World
  let options: ProofOptions
  before(async () => {
    world = await makeWorld()
    const { accelerator: _unused, limits: _none, ...rest } = world.options
    const cache_file = join(dirname(world.options.data_dir), 'accelerator.json')
    options = { ...rest, mode: 'auto', image: world.spec().image, cache_file, proof_ms: 4000 }
  })
  after(() => world?.remove())

  async function assertNothingLeft() {
    const data_dir = join(options.data_dir, PROOF_FOLDER)
    assert.deepEqual(await findMachineProcesses(instancesFolder({ data_dir })), [])
    assert.ok(!(await readdir(options.data_dir)).includes(PROOF_FOLDER))
    assert.ok(!(await readdir(options.run_dir)).includes(PROOF_FOLDER))
  }

  test('returns TCG without a test guest when TCG is configured', async () => {
    const { name, accelerator } = await proveAccelerator({ ...options, mode: 'tcg' })
    assert.match(name, /^QEMU \d/)
    assert.equal(accelerator, 'tcg')
  })

  test('reports a missing KVM device', async () => {
    const absent = { ...options, kvm_device: '/dev/absent' }
    assert.deepEqual((await proveAccelerator(absent)).reason, 'this host has no KVM device')
    await assert.rejects(
      proveAccelerator({ ...absent, mode: 'kvm' }),
      /KVM is configured but does not work: this host has no KVM device/,
    )
  })

  test('uses KVM only after a test guest has booted, and caches the result', async (context) => {
    const exists = await access('/dev/kvm').then(
      () => true,
      () => false,
    )
    if (!exists) return context.skip('no /dev/kvm')
    // As the user of this process, so that a device for root only is tested too.
    const real = { ...options, service_uid: null, cache_file: `${options.cache_file}.real` }
    const verdict = await proveAccelerator(real)
    await assertNothingLeft()
    if (verdict.accelerator === 'kvm') assert.match(verdict.reason, /a test guest booted with KVM/)
    else assert.match(verdict.reason, /did not boot within 4 s|did not start|has no access/)
    const written = await readFile(real.cache_file, 'utf8')
    // With a missing image, the result can only come from the cache.
    const unbootable = { ...real, image: { ...real.image, folder: 'nothing' } }
    assert.deepEqual(await proveAccelerator(unbootable), verdict)
    assert.equal(await readFile(real.cache_file, 'utf8'), written)
  })
})
