import assert from 'node:assert/strict'
import { access, readdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { type ProofOptions, proveAccelerator } from './accelerator.ts'
import { instancesFolder } from './machine-files.ts'
import { findMachineProcesses } from './process.ts'
import { PROOF_FOLDER } from './teardown.ts'
import { makeWorld, type World } from './testing.ts'

describe('the proof of the accelerator', () => {
  let world: World
  let options: ProofOptions
  before(async () => {
    world = await makeWorld()
    const { accelerator: _unused, limits: _none, ...rest } = world.options
    const cache_file = join(dirname(world.options.data_dir), 'accelerator.json')
    options = { ...rest, mode: 'auto', image: world.spec().image, cache_file, proof_ms: 4000 }
  })
  after(() => world?.remove())

  async function nothingIsLeft() {
    const data_dir = join(options.data_dir, PROOF_FOLDER)
    assert.deepEqual(await findMachineProcesses(instancesFolder({ data_dir })), [])
    assert.ok(!(await readdir(options.data_dir)).includes(PROOF_FOLDER))
    assert.ok(!(await readdir(options.run_dir)).includes(PROOF_FOLDER))
  }

  test('TCG needs no proof', async () => {
    const { name, accelerator } = await proveAccelerator({ ...options, mode: 'tcg' })
    assert.match(name, /^QEMU \d/)
    assert.equal(accelerator, 'tcg')
  })

  test('no device', async () => {
    const absent = { ...options, kvm_device: '/dev/absent' }
    assert.deepEqual((await proveAccelerator(absent)).reason, 'this host has no KVM device')
    await assert.rejects(
      proveAccelerator({ ...absent, mode: 'kvm' }),
      /not proven to work: this host has no KVM device/,
    )
  })

  test('a device that is there is believed only when a guest has reported, and the verdict is kept', async (context) => {
    const exists = await access('/dev/kvm').then(
      () => true,
      () => false,
    )
    if (!exists) return context.skip('no /dev/kvm')
    // As ourselves: a device that only root may use is then tried for real.
    const real = { ...options, service_uid: null, cache_file: `${options.cache_file}.real` }
    const verdict = await proveAccelerator(real)
    await nothingIsLeft()
    if (verdict.accelerator === 'kvm') assert.match(verdict.reason, /booted with KVM and reported/)
    else assert.match(verdict.reason, /did not report within 4 s|did not start|may not use/)
    const written = await readFile(real.cache_file, 'utf8')
    // With an image that does not exist only a kept verdict can answer.
    const unbootable = { ...real, image: { ...real.image, folder: 'nothing' } }
    assert.deepEqual(await proveAccelerator(unbootable), verdict)
    assert.equal(await readFile(real.cache_file, 'utf8'), written)
  })
})
