/**
 * Runs a host tool on untrusted data: without privileges, with resource limits and without access to paths.
 *
 * Other users have no access to the directories of the control plane. Therefore a tool inherits file descriptors and
 * opens them as /proc/self/fd/N, which requires permissions on the file but not on its directories. If the importer is
 * root, the unprivileged group (to read) or user (to write) owns the file while the tool runs. No shell is involved, all
 * arguments are fixed, and setpriv kills the tool when the importer dies.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { delimiter, join } from 'node:path'
import { systemClock } from '../../lib/clock.ts'
import { searchPath, toolEnvironment, track } from './children.ts'
import { ImportError } from './errors.ts'

/** `nobody` and `nogroup` on Debian; the overflow IDs of the kernel, which own no files. */
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
  /** Timeout in wall-clock time. */
  deadlineMs: number
  /** The largest file that the tool may write. */
  fileBytes?: number
  onOutput?: (text: string) => void
}

/** `code` is null if the tool was killed. `stderr` is the end of its error output. */
export type ToolResult = { code: number | null; timedOut: boolean; stdout: string; stderr: string }

/** The path by which a tool opens its n-th file. */
export function fileArgument(index: number): string {
  return `/proc/self/fd/${3 + index}`
}

/** Runs a tool and returns its result. Throws ImportError if it is not installed. */
export async function runTool(run: ToolRun): Promise<ToolResult> {
  for (const tool of ['setpriv', 'prlimit', run.tool] as const) requireTool(tool)
  const handles: FileHandle[] = []
  const restore: (() => Promise<void>)[] = []
  try {
    for (const file of run.files) {
      const handle = await open(file.path, (file.write ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NOFOLLOW)
      handles.push(handle)
      restore.push(await grantAccess(handle, file.write ?? false))
    }
    return await execute(run, handles)
  } finally {
    for (const restoreFile of restore) await restoreFile()
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

/** Throws ImportError with the package to install if a tool is missing. */
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

/** Gives the unprivileged user or group access to a file; returns a function that restores its owner and mode. */
async function grantAccess(handle: FileHandle, write: boolean): Promise<() => Promise<void>> {
  const stat = await handle.stat()
  // With a second hard link, the file could be any file of this host, whose owner must not change.
  if (!stat.isFile() || stat.nlink !== 1) throw new Error('not a regular file with one link')
  if (!isRoot()) return async () => {}
  await handle.chown(write ? UNPRIVILEGED_ID : 0, UNPRIVILEGED_ID)
  await handle.chmod(write ? 0o600 : 0o640)
  return async () => {
    await handle.chown(stat.uid, stat.gid)
    await handle.chmod(stat.mode & 0o777)
  }
}
