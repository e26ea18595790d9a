/** Shared by the tests of the importer: folders, disks, a mirror on loopback, the importer as a process. */
import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { writeGrant } from './grant.ts'
import { runImport } from './import.ts'
import type { Job, UrlJob } from './job.ts'
import { jobPaths, readStatus, writeJob } from './job-files.ts'
import type { Status } from './status.ts'

/** A folder that is removed when the test file ends. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'importer-'))
  after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A raw disk with a boot sector and random content. */
export function bootableDisk(bytes = 1 << 20): Buffer {
  const disk = randomBytes(bytes)
  disk.fill(0, 0, 512)
  disk.writeUInt16BE(0x55aa, 510)
  return disk
}

/** Hexadecimal. */
export const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

/** An HTTP server with files, validators and ranges. If `intercept` returns true, it has sent the response. */
export async function startMirror() {
  const files = new Map<string, Buffer>()
  const requests: { path: string; range: string | undefined; if_range: string | undefined; status: number }[] = []
  const mirror = {
    url: '',
    files,
    requests,
    ranges: true,
    intercept: (_request: IncomingMessage, _response: ServerResponse): boolean => false,
  }
  const server = createServer((request, response) => {
    const path = request.url!.split('?')[0]!
    const { range } = request.headers
    const ifRange = request.headers['if-range'] as string | undefined
    const entry = { path, range, if_range: ifRange, status: 0 }
    requests.push(entry)
    response.on('close', () => {
      entry.status = response.statusCode
    })
    response.on('error', () => {})
    if (mirror.intercept(request, response)) return
    const file = files.get(path)
    if (file === undefined) return response.writeHead(404).end()
    const etag = `"${sha256(file).slice(0, 16)}"`
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0)
    if (mirror.ranges && from > 0 && ifRange === etag) {
      if (from >= file.length) return response.writeHead(416, { 'content-range': `bytes */${file.length}` }).end()
      const contentRange = `bytes ${from}-${file.length - 1}/${file.length}`
      response.writeHead(206, { etag, 'content-range': contentRange, 'content-length': file.length - from })
      return response.end(file.subarray(from))
    }
    response.writeHead(200, { ...(mirror.ranges && { etag }), 'content-length': file.length })
    response.end(file)
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  after(() => {
    server.closeAllConnections()
    server.close()
  })
  mirror.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return mirror
}

/** Limits that permit requests to the mirror of a test. */
export const limits = {
  max_bytes: 64 << 20,
  max_virtual_size_bytes: 1 << 30,
  allowed_addresses: ['127.0.0.0/8', '::1/128'],
  ready_signal: 'process' as const,
  ssh_user: 'ubuntu',
  stall_timeout_seconds: 20,
}

/** A job for a file at a URL. */
export function urlJob(url: string, sum: string, more: Partial<UrlJob> = {}): UrlJob {
  return { kind: 'url', url, sha256: sum, ...limits, ...more }
}

let count = 0

/** Creates a job directory. The import may occupy any space. */
export function jobFolder(parent: string, job: Job): string {
  const folder = join(parent, `job-${++count}`)
  writeJob(folder, job)
  writeGrant(folder, Number.MAX_SAFE_INTEGER)
  return folder
}

/** Runs an import in this process and returns its status and log. */
export async function importNow(folder: string): Promise<{ status: Status; log: string }> {
  let log = ''
  await runImport(folder, (line) => {
    log += line
  })
  return { status: readStatus(folder)!, log }
}

/** Starts the importer as a process. */
export function startImporter(folder: string, environment: Record<string, string> = {}) {
  const child = spawn(process.execPath, [join(import.meta.dirname, 'main.ts'), folder], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...environment },
  })
  let log = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    log += text
  })
  const ended = once(child, 'close').then(([code, signal]) => ({ code, signal, log }))
  return { child, pid: child.pid!, ended }
}

/** Creates an executable in a folder that all users can access and that comes first in the search path. */
export function shadowTool(name: string, script: string): { PATH: string } {
  const folder = temporaryFolder()
  chmodSync(folder, 0o755)
  writeFileSync(join(folder, name), script, { mode: 0o755 })
  return { PATH: `${folder}:${process.env.PATH}` }
}

/** The paths of a job. */
export const at = jobPaths
