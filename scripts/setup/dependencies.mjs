import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { head, run, SetupError, step } from './step.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const modules = join(root, 'node_modules')
const stampFile = join(modules, '.cloudnexus')
const NODE_MAJOR = '26'
const DEADLINE_MS = 15 * 60_000

/** Installs into node_modules what package-lock.json lists, including the Node that runs everything else. */
export async function installDependencies() {
  const lock = readFileSync(join(root, 'package-lock.json'))
  const stamp = `${process.platform} ${process.arch} ${createHash('sha256').update(lock).digest('hex')}\n`
  if (read(stampFile) === stamp) return
  if (!installedByNpm(JSON.parse(lock.toString()))) {
    await step('installing the npm dependencies and Node 26 into node_modules', npmInstall)
  }
  checkNode()
  writeFileSync(stampFile, stamp)
}

/** True if npm has recorded that node_modules holds exactly these packages, apart from those of other platforms. */
function installedByNpm(lock) {
  const recorded = read(join(modules, '.package-lock.json'))
  if (recorded === null) return false
  const installed = JSON.parse(recorded).packages ?? {}
  return Object.entries(lock.packages).every(([path, wanted]) => {
    if (!path.startsWith('node_modules/') || wanted.link) return true
    if (installed[path] === undefined) return wanted.optional === true && !fits(wanted)
    return installed[path].integrity === wanted.integrity
  })
}

function fits({ os, cpu, libc }) {
  const glibc = process.platform === 'linux' && process.report.getReport().header.glibcVersionRuntime !== undefined
  return (
    (os?.includes(process.platform) ?? true) &&
    (cpu?.includes(process.arch) ?? true) &&
    (libc?.includes(glibc ? 'glibc' : 'musl') ?? true)
  )
}

async function npmInstall() {
  const args = ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=http', '--no-progress']
  const retries = ['--fetch-retries=2', '--fetch-retry-mintimeout=1000', '--fetch-retry-maxtimeout=3000']
  const npm = process.env.npm_execpath
  const [command, first] = npm?.endsWith('.js') ? [process.execPath, [npm]] : ['npm', []]
  const done = await run(command, [...first, ...args, ...retries], {
    cwd: root,
    deadlineMs: DEADLINE_MS,
    progress: () => `${installedPackages()} packages installed`,
  })
  if (done.code === 0) return
  if (done.code === 127) throw new SetupError('npm is not installed on this machine. Install it and try again.')
  if (
    /E(NOTFOUND|AI_AGAIN|CONNREFUSED|CONNRESET|TIMEDOUT|HOSTUNREACH|NETUNREACH)|ERR_SOCKET|FETCH_ERROR/.test(
      done.output,
    )
  ) {
    throw new SetupError(
      'The npm registry cannot be reached. Check the network, `npm config get registry` and, behind a proxy, `npm config get proxy`; then try again.',
    )
  }
  const errors = done.output.split('\n').filter((line) => /^npm error (?!A complete log)\S/.test(line))
  throw new SetupError(`npm could not install the dependencies:\n${head(errors)}`)
}

function installedPackages() {
  try {
    return readdirSync(modules).filter((name) => !name.startsWith('.')).length
  } catch {
    return 0
  }
}

function checkNode() {
  const node = join(modules, '.bin/node')
  let version = ''
  try {
    version = execFileSync(node, ['--version'], { encoding: 'utf8', timeout: 30_000 }).trim()
  } catch (error) {
    version = error.code ?? error.message.split('\n')[0]
  }
  if (version.startsWith(`v${NODE_MAJOR}.`)) return
  throw new SetupError(
    `node_modules/.bin/node is not Node ${NODE_MAJOR} for ${process.platform} ${process.arch} (${version}): remove node_modules and try again, without --omit=optional.`,
  )
}

function read(file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return null
  }
}
