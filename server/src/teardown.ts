/**
 * `npm run teardown -- --data-dir ./data [--yes]`: ends every machine of a data directory and deletes the directory. It
 * uses files and processes only, so it also works if the database no longer starts.
 */
import { existsSync, lstatSync, realpathSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { parseArgs } from 'node:util'
import { findServer } from './db/embedded.ts'
import { removeEgress } from './drivers/qemu/egress.ts'
import { removeGuestNetwork } from './drivers/qemu/guest-network.ts'
import { removeScope } from './drivers/qemu/scope.ts'
import { endAllMachines } from './drivers/qemu/teardown.ts'
import { systemClock as clock } from './lib/clock.ts'
import { StartupError } from './lib/errors.ts'
import { readFileOrNull } from './lib/files.ts'
import { isAlive, type ProcessIdentity, signal } from './lib/processes.ts'
import { endImporters } from './start/importers.ts'
import { INSTALLATION_FILE, parseInstallation } from './start/installation.ts'
import { readHolder } from './start/lock.ts'
import { isRunDirOf, storedRunDir } from './start/run-dir.ts'

const USAGE = 'npm run teardown -- --data-dir ./data [--yes]'
const STOP_MS = 15_000
const KILL_MS = 5_000

try {
  await teardown(process.argv.slice(2))
} catch (error) {
  const isExpected = error instanceof StartupError
  process.stderr.write(`${isExpected ? error.message : (error as Error).stack}\n`)
  process.exitCode = 1
}

async function teardown(args: string[]): Promise<void> {
  const { folder: given, yes } = parse(args)
  if (!existsSync(given)) return print(`${given} does not exist: nothing to do.`)
  if (lstatSync(given).isSymbolicLink())
    throw new StartupError(`${given} is a symbolic link. Give the path of the directory itself.`)
  const folder = realpathSync(given)
  const text = readFileOrNull(join(folder, INSTALLATION_FILE))
  if (text === null) throw new StartupError(`${folder} is not a CloudNexus data directory: nothing was removed.`)
  const { id } = parseInstallation(join(folder, INSTALLATION_FILE), text)
  if (!yes && !(await confirm(folder))) return print('Nothing was removed.')

  const controlPlane = readHolder(folder)
  if (controlPlane) await end('the control plane', controlPlane, 'SIGTERM')
  await endImporters(folder)
  const runDir = storedRunDir(folder)
  const ended = await endAllMachines(folder, runDir ?? folder)
  if (process.getuid?.() === 0)
    await removeEgress(id).catch((error) => print(`the packet filter for guests was not removed: ${error.message}`))
  if (runDir) await removeGuestNetwork({ run_dir: runDir })
  await removeScope(id)
  print(`${ended.length} virtual ${ended.length === 1 ? 'machine' : 'machines'} ended`)
  const database = findServer(join(folder, 'postgres'))
  if (database) await end('PostgreSQL', database, 'SIGINT')
  if (runDir && existsSync(runDir) && isRunDirOf(runDir, id)) rmSync(runDir, { recursive: true, force: true })
  removeDataDir(folder)
  print(`${folder} removed`)
}

/** Deletes the file that marks a data directory last, so that an interrupted teardown can be repeated. */
function removeDataDir(folder: string): void {
  for (const name of ['instances', 'images', 'imports', 'uploads', 'proof', 'postgres']) {
    rmSync(join(folder, name), { recursive: true, force: true, maxRetries: 3 })
  }
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
}

async function end(what: string, found: ProcessIdentity, first: NodeJS.Signals): Promise<void> {
  print(`stopping ${what} (process ${found.pid})`)
  signal(found, first)
  if (await isGone(found, STOP_MS)) return
  signal(found, 'SIGKILL')
  if (!(await isGone(found, KILL_MS)))
    throw new StartupError(`${what} (process ${found.pid}) does not end. Run the command again.`)
}

async function isGone(found: ProcessIdentity, ms: number): Promise<boolean> {
  const deadline = clock.monotonic() + ms
  while (isAlive(found)) {
    if (clock.monotonic() > deadline) return false
    await clock.sleep(50)
  }
  return true
}

async function confirm(folder: string): Promise<boolean> {
  if (!process.stdin.isTTY)
    throw new StartupError(`Without a terminal there is no confirmation. To remove ${folder}, add --yes.`)
  const terminal = createInterface({ input: process.stdin, output: process.stdout })
  const answer = await terminal.question(`End every virtual machine of ${folder} and remove it? Type yes: `)
  terminal.close()
  return answer.trim() === 'yes'
}

function parse(args: string[]): { folder: string; yes: boolean } {
  try {
    const options = { 'data-dir': { type: 'string' }, yes: { type: 'boolean' } } as const
    const { values } = parseArgs({ args, options })
    if (!values['data-dir']) throw new Error('--data-dir is missing')
    return { folder: resolve(values['data-dir']), yes: values.yes ?? false }
  } catch (error) {
    throw new StartupError(`${(error as Error).message.split('. ')[0]}: ${USAGE}`)
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`)
}
