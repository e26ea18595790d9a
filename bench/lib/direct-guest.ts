/** A guest that is started without the control plane, with the same QEMU flags as one of its guests. */
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, watch } from 'node:fs'
import { dirname, join } from 'node:path'
import { type ControlPlane, run } from '../../e2e/control-plane.ts'
import { qemuProcesses } from '../../e2e/leaks.ts'
import { commandLine } from '../../server/src/lib/processes.ts'
import { until } from '../../server/src/testing/until.ts'

export class DirectGuest {
  readonly #plane: ControlPlane
  readonly #copy: string
  #flags: { argv: string[]; folder: string; sockets: string | null } | null = null

  constructor(plane: ControlPlane) {
    this.#plane = plane
    this.#copy = join(dirname(plane.data_dir), 'direct-guest')
  }

  /** Copies the arguments and files of this running instance for the guest. */
  copyFrom(id: string): void {
    const { pid } = qemuProcesses(this.#plane.data_dir).find(({ command }) => command.includes(id))!
    const argv = commandLine(pid)
    const folder = join(this.#plane.data_dir, 'instances', id)
    const sockets = argv.map((arg) => /(?:unix:|"?path"?[=:]"?)([^,"]*)\/[^/,"]+\.sock/.exec(arg)?.[1]).find(Boolean)
    this.#flags = { argv, folder, sockets: sockets ?? null }
    rmSync(this.#copy, { recursive: true, force: true })
    cpSync(folder, this.#copy, { recursive: true, filter: (path) => !path.endsWith('disk.qcow2') })
  }

  /**
   * Runs the same command line on its own copies; milliseconds from the start of the process until the guest is ready.
   * @param on a new disk, or the disk of the previous start as the kill left it
   */
  async start(on: 'new disk' | 'same disk' = 'new disk'): Promise<number> {
    const copy = this.#copy
    if (on === 'new disk') await this.#makeDisk(join(copy, 'disk.qcow2'))
    const sockets = join(dirname(this.#plane.data_dir), 'sockets')
    mkdirSync(sockets, { recursive: true })
    const { argv: theirs, folder, sockets: theirSockets } = this.#flags!
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
      child.once('exit', (code) => reject(new Error(`QEMU exited with ${code}`)))
    })
    child.removeAllListeners('exit')
    child.kill('SIGKILL')
    await until('the QEMU of the direct guest has ended', () => child.exitCode !== null || child.signalCode !== null)
    return took
  }

  async #makeDisk(disk: string): Promise<void> {
    rmSync(disk, { force: true })
    const base = join(this.#plane.data_dir, 'images/img_microlinux/disk.qcow2')
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', base, disk, '1G'])
  }
}
