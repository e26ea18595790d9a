/**
 * From POST to `running`, against the same guest started by hand with the same QEMU flags: the two in turn, in one run.
 * The hand gets every advantage: its disk and seed are made before the clock starts.
 */
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, watch } from 'node:fs'
import { dirname, join } from 'node:path'
import { ControlPlane, run, until } from '../e2e/control-plane.ts'
import { qemuProcesses } from '../e2e/leaks.ts'
import { commandLine } from '../server/src/lib/processes.ts'
import { median, summary } from './lib/statistics.ts'

const ROUNDS = Number(process.env.ROUNDS ?? 9)
const LIMIT = 1.1
const BODY = {
  region: 'us-east-1',
  plan: 'micro-1x',
  image: 'micro-linux',
  network: { assign_public_ip: true },
}

const plane = await ControlPlane.create({ open: true })
const copy = join(dirname(plane.data_dir), 'by-hand')
let flags: { argv: string[]; folder: string; sockets: string | null } | null = null
try {
  const ours: number[] = []
  const byHand: number[] = []
  await create() // not counted: the first one fills the caches of the host
  for (let i = 0; i < ROUNDS; i++) {
    ours.push(await create())
    byHand.push(await startByHand())
  }
  const ratio = median(ours) / median(byHand)
  process.stdout.write(`boot: POST to running    ${summary(ours, 'ms')}\n`)
  process.stdout.write(`boot: by hand to ready   ${summary(byHand, 'ms')}\n`)
  process.stdout.write(`boot: ratio of medians   ${ratio.toFixed(3)} (at most ${LIMIT})\n`)
} finally {
  await plane.teardown()
}

/** One guest by the API; milliseconds from before the POST to the answer that it runs. */
async function create(): Promise<number> {
  const begin = performance.now()
  const { body } = await plane.call('POST', '/v2/instances', BODY)
  await plane.waitFor(body.id, 'running')
  const took = performance.now() - begin
  rememberFlags(body.id)
  await plane.call('DELETE', `/v2/instances/${body.id}`)
  await plane.waitFor(body.id, 'terminated')
  return took
}

/** What the last guest was started with: arguments, folder and files, to be used again under another name. */
function rememberFlags(id: string): void {
  const { pid } = qemuProcesses(plane.data_dir).find(({ command }) => command.includes(id))!
  const argv = commandLine(pid)
  const folder = join(plane.data_dir, 'instances', id)
  const sockets = argv.map((arg) => /(?:unix:|"?path"?[=:]"?)([^,"]*)\/[^/,"]+\.sock/.exec(arg)?.[1]).find(Boolean)
  flags = { argv, folder, sockets: sockets ?? null }
  rmSync(copy, { recursive: true, force: true })
  cpSync(folder, copy, { recursive: true, filter: (path) => !path.endsWith('disk.qcow2') })
}
/** The same command line, in a folder of its own; milliseconds from the start of the process to the guest's word. */
async function startByHand(): Promise<number> {
  const disk = join(copy, 'disk.qcow2')
  rmSync(disk, { force: true })
  const base = join(plane.data_dir, 'images/img_microlinux/disk.qcow2')
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, disk, '1G'])
  const sockets = join(dirname(plane.data_dir), 'sockets')
  mkdirSync(sockets, { recursive: true })
  const { argv: theirs, folder, sockets: theirSockets } = flags!
  const argv = theirs.map((arg) => {
    const moved = arg.replaceAll(folder, copy)
    return theirSockets ? moved.replaceAll(theirSockets, sockets) : moved
  })
  const ready = join(copy, 'ready')
  rmSync(ready, { force: true })
  const begin = performance.now()
  const child = spawn(argv[0]!, argv.slice(1), { stdio: ['ignore', 'ignore', 'inherit'] })
  const isReady = () => existsSync(ready) && readFileSync(ready, 'utf8').includes('\n')
  const took = await new Promise<number>((resolve, reject) => {
    const watcher = watch(copy, () => {
      if (!isReady()) return
      watcher.close()
      resolve(performance.now() - begin)
    })
    child.once('exit', (code) => reject(new Error(`QEMU by hand ended: ${code}`)))
  })
  child.removeAllListeners('exit')
  child.kill('SIGKILL')
  await until('the hand-started guest is gone', () => child.exitCode !== null || child.signalCode !== null)
  return took
}
