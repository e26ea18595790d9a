/**
 * Installs what an npm script needs: `setup.mjs start|test|bench|dependencies`.
 *
 * npm runs it before each script, with the Node that the host has and before anything is installed; therefore it is plain
 * JavaScript without dependencies. If nothing is missing, it prints nothing and takes milliseconds.
 */
import { installDependencies } from './setup/dependencies.mjs'
import { installPackages } from './setup/packages.mjs'
import { SetupError } from './setup/step.mjs'

const MODES = ['start', 'test', 'bench', 'dependencies']
const OLDEST_NODE = 20

const mode = process.argv[2] ?? ''
try {
  if (!MODES.includes(mode)) throw new SetupError(`usage: node scripts/setup.mjs ${MODES.join('|')}`)
  if (Number.parseInt(process.versions.node, 10) < OLDEST_NODE) {
    throw new SetupError(
      `npm runs on Node ${process.versions.node}, which is too old: install Node ${OLDEST_NODE} or newer and try again.`,
    )
  }
  if (mode !== 'dependencies') requireLinux()
  await installDependencies()
  if (mode !== 'dependencies') await installPackages(mode)
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exit(1)
}

function requireLinux() {
  if (process.platform === 'linux' && process.arch === 'x64') return
  throw new SetupError(
    `Live machines need Linux on x86-64 (with QEMU); this is ${process.platform} on ${process.arch}. Run it on such a host or in a virtual machine.`,
  )
}
