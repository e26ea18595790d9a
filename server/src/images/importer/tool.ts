/**
 * Runs a host tool on data of others: unprivileged, limited, and with no path of ours in its hands.
 *
 * Our directories are closed to other users, and should stay so. So a tool gets its files as inherited descriptors and
 * opens them again as /proc/self/fd/N, which asks for rights on the file but not on the directories above it. When we
 * are root the file is lent to the unprivileged group (to read) or user (to write) for as long as the tool runs.
 * There is no shell, arguments are ours, and setpriv ends the tool if the importer is killed.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { systemClock } from '../../lib/clock.ts'
import { searchPath, toolEnvironment, track } from './children.ts'
import { ImportError } from './errors.ts'

/** `nobody` and `nogroup` on Debian; the kernel's overflow ids, so no account of ours owns anything by them. */
const UNPRIVILEGED_ID = 65534
const MEMORY_BYTES = 2 ** 30
const MAX_OUTPUT_BYTES = 1 << 20

const packages = { 'qemu-img': 'qemu-utils', gpgv: 'gpgv', setpriv: 'util-linux', prlimit: 'util-linux' }
type Tool = keyof typeof packages

export type ToolRun = {
  jobDir: string
  tool: Tool
  args: string[]
  /** The n-th file is `fileArgument(n)` to the tool. */
  files: { path: string; write?: boolean }[]
  cpuSeconds: number
  /** Of wall-clock time. */
  deadlineMs: number
  /** The largest file that the tool may write. */
  fileBytes?: number
  onOutput?: (text: string) => void
}

/** `code` is null when the tool was killed; `stderr` is its end only. */
export type ToolResult = { code: number | null; timedOut: boolean; stdout: string; stderr: string }

/** How a tool names the n-th file that it was given. */
export function fileArgument(index: number): string {
  return `/proc/self/fd/${3 + index}`
}

/** Runs a tool to its end, good or bad. Throws ImportError when it is not installed. */
export async function runTool(run: ToolRun): Promise<ToolResult> {
  for (const tool of ['setpriv', 'prlimit', run.tool] as const) requireTool(tool)
  const handles: FileHandle[] = []
  const takeBack: (() => Promise<void>)[] = []
  try {
    for (const file of run.files) {
      const handle = await open(file.path, (file.write ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NOFOLLOW)
      handles.push(handle)
      takeBack.push(await grantAccess(handle, file.write ?? false))
    }
    return await execute(run, handles)
  } finally {
    for (const back of takeBack) await back()
    for (const handle of handles) await handle.close()
  }
}

function execute(run: ToolRun, handles: FileHandle[]): Promise<ToolResult> {
  const limits = [
    `--as=${MEMORY_BYTES}`,
    `--cpu=${run.cpuSeconds}:${run.cpuSeconds + 5}`,
    `--fsize=${run.fileBytes ?? 0}`,
    '--core=0',
  ]
  const args = ['--pdeathsig', 'KILL', '--no-new-privs', 'prlimit', ...limits, run.tool, ...run.args]
  const child = spawn('setpriv', args, {
    cwd: '/',
    env: toolEnvironment(run.jobDir),
    stdio: ['ignore', 'pipe', 'pipe', ...handles.map((handle) => handle.fd)],
    ...(isRoot() && { uid: UNPRIVILEGED_ID, gid: UNPRIVILEGED_ID }),
  })
  const kill = track(child, { group: false })
  const result: ToolResult = { code: null, timedOut: false, stdout: '', stderr: '' }
  const deadline = systemClock.after(run.deadlineMs, () => {
    result.timedOut = true
    kill()
  })
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    if (run.onOutput) return run.onOutput(text)
    result.stdout += text
    if (result.stdout.length > MAX_OUTPUT_BYTES) kill()
  })
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    result.stderr = (result.stderr + text).slice(-8192)
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => {
      deadline.cancel()
      result.timedOut ||= signal === 'SIGXCPU'
      resolve({ ...result, code })
    })
  })
}

/** Throws ImportError with the package to install when a tool is missing. */
export function requireTool(tool: Tool): void {
  const found = searchPath()
    .split(delimiter)
    .some((folder) => folder !== '' && isExecutable(join(folder, tool)))
  if (found) return
  const message = `${tool} is missing on this host. As root, run apt-get install ${packages[tool]}, then retry the import.`
  throw new ImportError('image_host_tool_missing', message)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

const isRoot = () => process.getuid?.() === 0

/** Gives a file to the unprivileged user or group; returns how to take it back. */
async function grantAccess(handle: FileHandle, write: boolean): Promise<() => Promise<void>> {
  const stat = await handle.stat()
  // A second name could be any file of this host, which must never change hands.
  if (!stat.isFile() || stat.nlink !== 1) throw new Error('not a regular file with one name')
  if (!isRoot()) return async () => {}
  await handle.chown(write ? UNPRIVILEGED_ID : 0, UNPRIVILEGED_ID)
  await handle.chmod(write ? 0o600 : 0o640)
  return async () => {
    await handle.chown(stat.uid, stat.gid)
    await handle.chmod(stat.mode & 0o777)
  }
}
