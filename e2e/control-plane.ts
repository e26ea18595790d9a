/**
 * A control plane as a user runs it: a process with its own data directory, used over HTTP only. Tests can kill and restart
 * it; the project's teardown command removes it.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { connect } from '../server/src/db/database.ts'
import { assertNoSecrets, secretsIn } from '../server/src/db/testing-canary.ts'
import { testImage } from '../server/src/drivers/qemu/testing.ts'
import { type CheckResponse, createResponseCheck } from '../server/src/http/testing-responses.ts'
import { freePort } from '../server/src/testing/free-port.ts'
import { until } from '../server/src/testing/until.ts'
import { type MutantName, mutantArguments } from './mutants.ts'

const ROOT = join(import.meta.dirname, '..')

export type Credentials = { api_url: string; live_key: string; test_key: string }

/** Runs a command in a mount namespace in which a file of the host is another one. */
const WITH_FILE = 'mount --bind -- "$1" "$2" && shift 2 && exec "$@"'
const BOOT_ID = '/proc/sys/kernel/random/boot_id'
/** With it, users can connect a network namespace of their own. */
export const NETWORK_DEVICE = '/dev/net/tun'

type Options = {
  env?: Record<string, string>
  config?: object
  open?: boolean
  uid?: number
  boot_id_file?: string
  network_device?: string
  umask?: string
  descriptors?: number
  folder?: string
  parent?: string
  mutant?: MutantName
  checkout?: string
}

function replacing(file: string | undefined, path: string): string[] {
  return file === undefined ? [] : ['unshare', '--mount', 'sh', '-c', WITH_FILE, 'sh', file, path]
}

export class ControlPlane {
  readonly data_dir: string
  readonly port: number
  readonly env: Record<string, string>
  child: ChildProcess | null = null
  /** Checks each response against the OpenAPI document of the control plane. */
  private check: CheckResponse | null = null

  /** The start of each command line: node, or node as another user. */
  readonly node: string[]
  /** Loads the mutant, if any. */
  private readonly mutant: string[]
  /** The checkout whose control plane runs. */
  private readonly checkout: string

  private constructor(dataDir: string, port: number, env: Record<string, string>, options: Options) {
    this.data_dir = dataDir
    this.port = port
    this.env = env
    const { uid, boot_id_file, network_device, mutant, umask, descriptors, checkout = ROOT } = options
    this.checkout = checkout
    this.mutant = mutant ? mutantArguments(mutant) : []
    const user = uid === undefined ? [] : ['setpriv', '--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups', '--']
    const boot = replacing(boot_id_file, BOOT_ID)
    const device = replacing(network_device, NETWORK_DEVICE)
    const mask = umask === undefined ? [] : ['sh', '-c', `umask ${umask} && exec "$@"`, 'sh']
    const limit = descriptors === undefined ? [] : ['prlimit', `--nofile=${descriptors}:${descriptors}`]
    this.node = [...limit, ...mask, ...boot, ...device, ...user, process.execPath]
  }

  /**
   * Prepares a data directory with the tiny image, which saves building it, and starts the process.
   * @param config content of config.json
   * @param uid the user that runs the process and owns the data directory
   * @param boot_id_file replaces the host's boot ID for the control plane; requires root
   * @param network_device replaces the host's device for network namespaces; requires root
   * @param mutant runs this mutant of the control plane
   * @param checkout runs the control plane of this folder instead, which has its dependencies
   * @param umask of the process
   * @param descriptors how many the process may have open
   * @param folder name of the data directory
   * @param parent where its folder is created, instead of the folder for temporary files
   * @param open whether every user can reach the data directory; otherwise machines reach it through their namespace
   */
  static async create(options: Options = {}): Promise<ControlPlane> {
    const dataDir = join(mkdtempSync(join(options.parent ?? tmpdir(), 'cn-e2e-')), options.folder ?? 'data')
    if (options.open) chmodSync(dirname(dataDir), 0o711)
    const { images_dir, image } = await testImage()
    mkdirSync(join(dataDir, 'images'), { recursive: true })
    cpSync(join(images_dir, image.folder), join(dataDir, 'images/img_microlinux'), { recursive: true })
    if (options.config) writeFileSync(join(dataDir, 'config.json'), JSON.stringify(options.config))
    const plane = new ControlPlane(
      dataDir,
      await freePort(),
      { CLOUDNEXUS_ACCEL: 'tcg', CLOUDNEXUS_LOG_LEVEL: 'debug', ...options.env },
      options,
    )
    if (options.uid !== undefined) await run('chown', ['-R', `${options.uid}:${options.uid}`, dirname(dataDir)])
    await plane.start()
    return plane
  }

  get log_file(): string {
    return join(dirname(this.data_dir), 'control-plane.log')
  }

  get credentials(): Credentials {
    return JSON.parse(readFileSync(join(this.data_dir, 'credentials.json'), 'utf8'))
  }

  /** Starts the process and waits until `/readyz` returns 200. */
  async start(): Promise<void> {
    const log = openSync(this.log_file, 'a')
    const main = join(this.checkout, 'server/src/main.ts')
    const args = [...this.mutant, main, '--port', String(this.port), '--data-dir', this.data_dir]
    const [command, ...before] = this.node
    this.child = spawn(command!, [...before, ...args], {
      cwd: this.checkout,
      env: { ...process.env, ...this.env },
      stdio: ['ignore', log, log],
      detached: true,
    })
    const child = this.child
    await until('the control plane is ready', async () => {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`the process ended:\n${this.lastLog()}`)
      return (await fetch(`http://127.0.0.1:${this.port}/readyz`).catch(() => null))?.status === 200
    })
  }

  /** Waits until its output matches; the banner follows the first 200 of `/readyz`. */
  async printed(text: RegExp): Promise<void> {
    await until(`${text} is printed`, () => text.test(readFileSync(this.log_file, 'utf8')), 20)
  }

  lastLog(): string {
    return existsSync(this.log_file) ? readFileSync(this.log_file, 'utf8').slice(-4_000) : ''
  }

  /** Sends a signal to the process and waits for its exit. */
  async end(signal: NodeJS.Signals): Promise<{ code: number | null }> {
    const child = this.child
    this.child = null
    if (!child || child.exitCode !== null || child.signalCode !== null) return { code: child?.exitCode ?? null }
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
    process.kill(child.pid!, signal)
    return { code: await ended }
  }

  /** The lines of `postmaster.pid` of the embedded PostgreSQL; null when it does not run. */
  postmaster(): string[] | null {
    return readIfThere(join(this.data_dir, 'postgres/postmaster.pid'))?.split('\n') ?? null
  }

  /** Process ID of the embedded PostgreSQL, which must run. */
  get postgres_pid(): number {
    return Number(this.postmaster()![0])
  }

  /** The folder of PostgreSQL's Unix socket. */
  get postgres_host(): string {
    return this.postmaster()![4]!.trim()
  }

  /** Connection string of the superuser of the embedded PostgreSQL, which must run. */
  get database_url(): string {
    return `postgres://cloudnexus@/cloudnexus?host=${encodeURIComponent(this.postgres_host)}`
  }

  /** Searches the log and, while PostgreSQL runs, every row of the database for secrets. */
  async assertNoSecrets(): Promise<void> {
    assert.deepEqual(secretsIn(readIfThere(this.log_file) ?? ''), [], 'the log contains a secret')
    if (!this.child || this.postmaster() === null) return
    const sql = connect({ url: this.database_url, max: 1, name: 'canary' })
    await assertNoSecrets(sql).finally(() => sql.end())
  }

  /** Searches for secrets, then runs the teardown command. */
  async teardown(): Promise<void> {
    await this.assertNoSecrets().finally(() => this.remove())
  }

  private async remove(): Promise<void> {
    await this.end('SIGTERM')
    const installation = readIfThere(join(this.data_dir, 'installation.json'))
    const [command, ...before] = this.node
    await run(command!, [
      ...before,
      join(this.checkout, 'server/src/teardown.ts'),
      '--data-dir',
      this.data_dir,
      '--yes',
    ])
    rmSync(dirname(this.data_dir), { recursive: true, force: true })
    if (installation === null || process.getuid?.() !== 0) return
    const { id } = JSON.parse(installation)
    assert.ok(!(await run('nft', ['list', 'tables'])).includes(id), 'a packet filter is left')
  }

  /** Calls the API, by default with the live key. The response must match the OpenAPI document of the control plane. */
  async call(method: string, path: string, body?: unknown, key = this.credentials.live_key): Promise<ApiResponse> {
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    const json = response.headers.get('content-type')?.includes('json')
    const result = { status: response.status, headers: response.headers, body: json ? JSON.parse(text) : text }
    this.check ??= createResponseCheck(
      (await (await fetch(`http://127.0.0.1:${this.port}/openapi.json`)).json()) as never,
    )
    this.check(method, path, { ...result, headers: Object.fromEntries(result.headers) })
    return result
  }

  /** Long-polls until the instance has one of the statuses (separated by commas). Throws when it fails. */
  async waitFor(id: string, statuses: string, seconds = 120): Promise<any> {
    const deadline = performance.now() + seconds * 1000
    for (;;) {
      const { body } = await this.call('GET', `/v2/instances/${id}?wait_for=${statuses}&timeout=10`)
      if (statuses.split(',').includes(body.status)) return body
      if (body.status === 'failed' || performance.now() > deadline) {
        throw new Error(`${id} is ${body.status}, not ${statuses}: ${JSON.stringify(body.status_reason ?? body)}`)
      }
    }
  }
}

export type ApiResponse = { status: number; headers: Headers; body: any }

function readIfThere(file: string): string | null {
  return existsSync(file) ? readFileSync(file, 'utf8') : null
}

/** Runs a program. Throws with its output when it fails or exceeds the timeout. */
export function run(
  command: string,
  args: string[],
  options: { env?: Record<string, string>; cwd?: string; timeout_ms?: number } = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    const { env, cwd, timeout_ms: timeout = 120_000 } = options
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      timeout,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let out = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (out += chunk))
    child.on('error', reject)
    child.on('close', (code) =>
      code === 0 ? resolve(out) : reject(new Error(`${command} ${args.join(' ')}: ${code}\n${out}`)),
    )
  })
}
