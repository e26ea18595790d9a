/**
 * Determines whether KVM works on this host. A device that opens is not enough: under nested virtualisation it can accept
 * every call and still hang each guest after its firmware. Therefore the driver boots a small guest with KVM, with the
 * privileges that machines will have, and waits until the guest is ready. The result is cached per boot of the host, QEMU
 * version, mode and user. All files and processes of the test are removed, including those of an interrupted one.
 */
import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { silentLog } from '../../lib/log.ts'
import { hostBootId } from '../../lib/processes.ts'
import { type Hypervisor, InvalidSpecError, type MachineImage, type MachineSpec } from '../driver.ts'
import { QemuDriver } from './driver.ts'
import type { QemuOptions } from './host.ts'
import { writeJson } from './machine-files.ts'
import { runProgram } from './run-program.ts'
import { endAllMachines, PROOF_FOLDER } from './teardown.ts'

export type ProofOptions = Omit<QemuOptions, 'accelerator' | 'limits'> & {
  mode: 'auto' | 'kvm' | 'tcg'
  /** A small image with direct boot whose guest signals that it is ready. */
  image: MachineImage
  /** The file that caches the result. */
  cache_file: string
  /** Timeout of the guest; with working KVM it boots in one second. */
  proof_ms?: number
  kvm_device?: string
}

type Verdict = { works: boolean; reason: string }

const PROOF_MS = 10_000
const POLL_MS = 20
const MIB = 1024 * 1024
const PROOF_ID = 'inst_kvmproof00'

/** Returns the accelerator to use and the reason. Throws if the mode is `kvm` and KVM does not work. */
export async function proveAccelerator(options: ProofOptions): Promise<Hypervisor> {
  const version = /version (\S+)/.exec(await runProgram([options.qemu_binary, '--version']))?.[1] ?? 'unknown'
  const name = `QEMU ${version}`
  if (options.mode === 'tcg') return { name, accelerator: 'tcg', reason: 'TCG is configured' }
  const key = [hostBootId(), version, options.mode, options.service_uid ?? 'self'].join(' ')
  const verdict =
    (await openKvm(options)) ?? (await readVerdict(options.cache_file, key)) ?? (await proveKvm(options, key))
  if (verdict.works) return { name, accelerator: 'kvm', reason: verdict.reason }
  if (options.mode === 'kvm')
    throw new Error(`KVM is configured but does not work: ${verdict.reason}. Repair KVM, or configure auto or tcg.`)
  return { name, accelerator: 'tcg', reason: verdict.reason }
}

async function readVerdict(file: string, key: string): Promise<Verdict | null> {
  try {
    const { key: known, works, reason } = JSON.parse(await readFile(file, 'utf8'))
    return known === key && typeof works === 'boolean' && typeof reason === 'string' ? { works, reason } : null
  } catch {
    return null
  }
}

async function proveKvm(options: ProofOptions, key: string): Promise<Verdict> {
  const data_dir = join(options.data_dir, PROOF_FOLDER)
  const run_dir = join(options.run_dir, PROOF_FOLDER)
  const clean = async () => {
    await endAllMachines(data_dir, run_dir)
    for (const folder of [data_dir, run_dir]) await rm(folder, { recursive: true, force: true })
  }
  await clean()
  const driver = new QemuDriver({
    ...options,
    data_dir,
    run_dir,
    limits: { vcpus: 1, memory_bytes: 0, disk_bytes: 0 },
    log: silentLog,
    accelerator: { name: 'QEMU', accelerator: 'kvm', reason: 'under test' },
  })
  try {
    const verdict = await bootOnce(driver, options)
    await writeJson(options.cache_file, { key, ...verdict })
    return verdict
  } finally {
    await driver.close()
    await clean()
  }
}

/** Why the KVM device cannot be opened by the user that QEMU will run as, or null. Cheap, therefore not cached. */
async function openKvm({ kvm_device = '/dev/kvm', service_uid }: ProofOptions): Promise<Verdict | null> {
  const no = (reason: string): Verdict => ({ works: false, reason })
  const test = ['test', '-r', kvm_device, '-a', '-w', kvm_device]
  if (await fails(['test', '-e', kvm_device])) return no('this host has no KVM device')
  if (await fails(test)) return no('KVM is present, but this user has no access to it')
  if (service_uid === null) return null
  const group = (await runProgram(['stat', '-c', '%g', kvm_device])).trim()
  const groups = group === '0' ? ['--clear-groups'] : ['--groups', group]
  const asUser = ['setpriv', '--reuid', `${service_uid}`, '--regid', `${service_uid}`, ...groups, '--', ...test]
  return (await fails(asUser))
    ? no(
        'KVM is present, but only root has access to it, and machines do not run as root (run chgrp kvm /dev/kvm; chmod 660 /dev/kvm)',
      )
    : null
}

const fails = (argv: string[]) =>
  runProgram(argv).then(
    () => false,
    () => true,
  )

async function bootOnce(driver: QemuDriver, options: ProofOptions): Promise<Verdict> {
  const { clock, image, proof_ms = PROOF_MS } = options
  const spec = proofSpec(image)
  const ref = { id: spec.id, environment_id: spec.environment_id, now: clock.now() }
  await driver.adopt()
  await driver.create(spec)
  await driver.start(spec, clock.now())
  for (const deadline = clock.monotonic() + proof_ms; clock.monotonic() < deadline; await clock.sleep(POLL_MS)) {
    const machine = await driver.get(ref)
    if (machine?.ready) return { works: true, reason: 'a test guest booted with KVM' }
    if (machine?.power !== 'running')
      return { works: false, reason: 'KVM is present, but the test guest did not start' }
  }
  return { works: false, reason: `KVM is present, but the test guest did not boot within ${proof_ms / 1000} s` }
}

function proofSpec(image: MachineImage): MachineSpec {
  if (!image.boot || image.ready_signal !== 'guest')
    throw new InvalidSpecError('invalid_spec', 'the image is not suitable for the KVM test')
  return {
    id: PROOF_ID,
    environment_id: 'env_0000000000',
    disk: 1,
    run: 1,
    image,
    vcpus: 1,
    memory_bytes: 128 * MIB,
    disk_bytes: 1024 * MIB,
    hostname: 'proof',
    ssh_public_keys: [],
    user_data: null,
    tags: {},
    network: {
      segment: 0,
      mac: '52:54:00:00:00:01',
      private_ip: '192.168.255.2',
      prefix_length: 30,
      public_ip: null,
      ports: [],
    },
  }
}
