import { execFileSync } from 'node:child_process'
import { isThere, run, SetupError, step, tail } from './step.mjs'

/** Debian packages that are needed, each with a program or file that shows that it is installed. */
const START = {
  'qemu-system-x86': 'qemu-system-x86_64',
  'qemu-utils': 'qemu-img',
  genisoimage: 'genisoimage',
  e2fsprogs: 'mke2fs',
  lz4: 'lz4',
  zstd: 'zstd',
  'xz-utils': 'xz',
  cpio: 'cpio',
  kmod: 'depmod',
  gpgv: 'gpgv',
  fakeroot: 'fakeroot',
  dpkg: 'dpkg-deb',
  'openssh-client': 'ssh-keygen',
  'util-linux': 'setpriv',
  mmdebstrap: 'mmdebstrap',
}
const TEST = {
  ...START,
  syslinux: 'syslinux',
  'syslinux-common': '/usr/lib/syslinux/modules/bios/ldlinux.c32',
  mtools: 'mcopy',
  curl: 'curl',
  gnupg: 'gpg',
  iproute2: 'ip',
  procps: 'pgrep',
  python3: 'python3',
  systemd: 'systemd-analyze',
  nftables: 'nft',
  slirp4netns: 'slirp4netns',
}
/** Filters what guests send. Without root it is optional, and slirp4netns is also needed. */
const ROOT = { nftables: 'nft' }
/** `postgresql` also installs a server, which the benchmarks do not use: no smaller package has pgbench. */
const BENCH = { ...TEST, wrk: 'wrk', postgresql: 'pgbench' }
/** Useful; not every distribution has it by this name. */
const OPTIONAL = { 'debian-archive-keyring': '/usr/share/keyrings/debian-archive-keyring.gpg' }

const DEADLINE_MS = 15 * 60_000
const APT = ['-y', '-o', 'DPkg::Lock::Timeout=120', '-o', 'Acquire::Retries=2', '-o', 'Acquire::http::Timeout=30']

/** Installs what is missing if it runs as root; otherwise throws the command line that root has to run. */
export async function installPackages(mode) {
  const isRoot = process.getuid() === 0
  const needed = { ...{ start: START, test: TEST, bench: BENCH }[mode], ...(isRoot && ROOT) }
  const missing = Object.keys(needed).filter((name) => !isInstalled(needed[name]))
  if (missing.length === 0) return
  if (!isThere('apt-get')) {
    const programs = missing.map((name) => needed[name])
    throw new SetupError(`Missing on this host: ${programs.join(', ')}. Install them and try again.`)
  }
  if (!isRoot) throw new SetupError(`sudo apt-get install -y ${missing.join(' ')}`)
  for (const [name, file] of Object.entries(OPTIONAL)) if (!isThere(file)) missing.push(name)
  await step(`installing Debian packages: ${missing.join(' ')}`, () => install(missing))
  const still = Object.keys(needed).filter((name) => !isInstalled(needed[name]))
  if (still.length > 0)
    throw new SetupError(
      `apt-get ended without an error, but did not install ${still.map((name) => needed[name]).join(', ')}.`,
    )
}

async function install(packages) {
  let fresh = false
  if (!packages.every(isKnown)) {
    await update()
    fresh = true
  }
  const found = packages.filter((name) => !(name in OPTIONAL) || isKnown(name))
  let done = await apt(['install', '--no-install-recommends', ...found])
  // Old package lists name versions that the mirrors have deleted.
  if (done.code !== 0 && !fresh) {
    await update()
    done = await apt(['install', '--no-install-recommends', ...found])
  }
  if (done.code !== 0) throw new SetupError(`apt-get could not install ${found.join(' ')}:\n${tail(done.output)}`)
}

async function update() {
  const done = await apt(['update'])
  if (done.code !== 0) throw new SetupError(`apt-get update failed:\n${tail(done.output)}`)
}

function apt(args) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' }
  return run('apt-get', [...APT, ...args], { env, deadlineMs: DEADLINE_MS })
}

function isKnown(name) {
  try {
    return (
      execFileSync('apt-cache', ['show', '--no-all-versions', name], { stdio: ['ignore', 'pipe', 'ignore'] }).length > 0
    )
  } catch {
    return false
  }
}

/** Debian's PostgreSQL client packages contain a `pgbench` that only starts the real one, which may be missing. */
function isInstalled(probe) {
  if (probe !== 'pgbench') return isThere(probe)
  try {
    return execFileSync(probe, ['--version'], { stdio: ['ignore', 'pipe', 'ignore'] }).length > 0
  } catch {
    return false
  }
}
