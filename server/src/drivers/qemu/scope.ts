/**
 * How machines are separated from the control plane's service, so that they survive its stop, and how their use of the
 * host is limited: number of threads, memory and CPU weight. With systemd each machine is a scope; otherwise it is a
 * cgroup where one can be made (version 2, or the controllers of version 1); otherwise only a session, without limits.
 */
import { access, mkdir, readdir, rmdir, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { TransientError } from '../driver.ts'

export type MachineSize = { vcpus: number; memory_bytes: number }

export type Scope = {
  limits: 'cgroup' | 'none'
  /** For the log and `/v2/regions`. */
  reason: string
  /** Makes the machine's cgroups and sets their limits. Throws TransientError. */
  prepare(id: string, size: MachineSize): Promise<void>
  /** The start of the command of a machine, with which its process is in the scope before it is QEMU. */
  command(id: string, run: number, size: MachineSize): string[]
  /** Removes the cgroups of a machine, if they are empty. */
  remove(id: string): Promise<void>
}

const CGROUPS = '/sys/fs/cgroup'

/** Threads of a machine besides its vCPUs: QEMU uses up to 64 for disks. */
const MORE_THREADS = 128
/** Memory of QEMU besides the guest's: translated code, devices, and the file cache, which is reclaimed first. */
const MORE_MEMORY_BYTES = 512 * 2 ** 20

const threads = ({ vcpus }: MachineSize) => vcpus + MORE_THREADS
const memory = ({ memory_bytes }: MachineSize) => memory_bytes + MORE_MEMORY_BYTES
/** The scale of cgroup version 2, in which one CPU is 100. */
const weight = (cpus: number) => Math.min(10_000, 100 * cpus)

/** A constant script: all variable values are positional parameters, which a shell does not parse. */
const ENTER_AND_EXEC = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"'

/** A limit: its controller in version 1, and the file and value in each version. */
const LIMITS = [
  { controller: 'pids', v1: 'pids.max', v2: 'pids.max', value: threads },
  { controller: 'memory', v1: 'memory.limit_in_bytes', v2: 'memory.max', value: memory },
] as const
const WEIGHT = {
  controller: 'cpu',
  v1: { file: 'cpu.shares', value: (cpus: number) => 1024 * cpus },
  v2: { file: 'cpu.weight', value: weight },
}

const CONTROLLERS = [...LIMITS.map(({ controller }) => controller), WEIGHT.controller]

/** A folder for machines, and the limits to write in the folder of each. */
type Tree = { folder: string; limits: { file: string; value: (size: MachineSize) => number }[] }

/** The best scope that this host supports. */
export async function openScope(
  installation: string,
  isRoot = process.getuid?.() === 0,
  { cgroups = CGROUPS, systemd = '/run/systemd/system' } = {},
): Promise<Scope> {
  if (isRoot && (await exists(systemd))) return systemdScope(installation)
  const name = `cloudnexus-${installation}`
  if (await exists(join(cgroups, 'cgroup.controllers'))) {
    const folder = join(cgroups, name)
    if (!(await succeeds(mkdir(folder, { recursive: true })))) return sessionScope('cgroup v2 is not writable')
    const limited = await succeeds(enableControllers(cgroups, folder))
    return cgroupScope([{ folder, limits: limited ? limitsOf('v2', null) : [] }], limited)
  }
  const trees = CONTROLLERS.map((controller) => {
    return { folder: join(cgroups, controller, name), limits: limitsOf('v1', controller) }
  })
  return (await succeeds(openTrees(trees, join(cgroups, WEIGHT.controller, name))))
    ? cgroupScope(trees, true)
    : sessionScope('no systemd, no writable cgroup')
}

/** Removes the cgroups of an installation without machines. */
export async function removeScope(installation: string, cgroups = CGROUPS): Promise<void> {
  for (const parent of [cgroups, ...CONTROLLERS.map((controller) => join(cgroups, controller))]) {
    const folder = join(parent, `cloudnexus-${installation}`)
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
    const machines = entries.filter((entry) => entry.isDirectory()).map((entry) => join(folder, entry.name))
    for (const each of [...machines, folder]) await rmdir(each).catch(() => {})
  }
}

function limitsOf(version: 'v1' | 'v2', controller: string | null): Tree['limits'] {
  const limits = LIMITS.map((limit) => ({ ...limit, file: limit[version] }))
  const { file, value } = WEIGHT[version]
  const all = [...limits, { controller: WEIGHT.controller, file, value: ({ vcpus }: MachineSize) => value(vcpus) }]
  return all.filter((limit) => controller === null || limit.controller === controller)
}

/** Version 2 passes controllers on from the root to the machines. All machines together weigh as much as all CPUs. */
async function enableControllers(root: string, folder: string): Promise<void> {
  for (const each of [root, folder]) await writeFile(join(each, 'cgroup.subtree_control'), '+pids +memory +cpu')
  await writeFile(join(folder, WEIGHT.v2.file), `${WEIGHT.v2.value(availableParallelism())}`)
}

async function openTrees(trees: Tree[], weighted: string): Promise<void> {
  for (const { folder } of trees) await mkdir(folder).catch(unlessThere)
  await writeFile(join(weighted, WEIGHT.v1.file), `${WEIGHT.v1.value(availableParallelism())}`)
}

function cgroupScope(trees: Tree[], limited: boolean): Scope {
  return {
    limits: limited ? 'cgroup' : 'none',
    reason: limited ? 'each in a separate cgroup' : 'each in a separate cgroup without controllers',
    command: (id) => ['sh', '-c', ENTER_AND_EXEC, 'sh', ...trees.map(({ folder }) => join(folder, id)), '--'],
    async prepare(id, size) {
      try {
        for (const { folder, limits } of trees) {
          await mkdir(join(folder, id), { recursive: true })
          for (const { file, value } of limits) await writeFile(join(folder, id, file), `${value(size)}`)
        }
      } catch (error) {
        throw new TransientError('cgroup', 'The limits of the machine could not be set.', String(error), {
          cause: error,
        })
      }
    },
    async remove(id) {
      for (const { folder } of trees) await rmdir(join(folder, id)).catch(() => {})
    },
  }
}

function systemdScope(installation: string): Scope {
  return {
    limits: 'cgroup',
    reason: 'each in a separate systemd scope',
    command(id, run, size) {
      const unit = `cloudnexus-${installation}-${id}-${run}.scope`
      const limits = [`TasksMax=${threads(size)}`, `MemoryMax=${memory(size)}`, `CPUWeight=${weight(size.vcpus)}`]
      const properties = limits.flatMap((limit) => ['-p', limit])
      return ['systemd-run', '--scope', '--quiet', '--collect', `--unit=${unit}`, ...properties, '--']
    },
    prepare: async () => {},
    remove: async () => {},
  }
}

function sessionScope(why: string): Scope {
  return {
    limits: 'none',
    reason: `each in a separate session (${why})`,
    command: () => [],
    prepare: async () => {},
    remove: async () => {},
  }
}

const exists = (path: string) => succeeds(access(path))

const succeeds = (work: Promise<unknown>) =>
  work.then(
    () => true,
    () => false,
  )

function unlessThere(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error
}
