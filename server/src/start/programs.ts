import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { PROGRAM_ENVIRONMENT } from '../drivers/qemu/run-program.ts'
import { StartupError } from '../lib/errors.ts'

/** Programs that machines require, and their Debian packages. */
const NEEDED = {
  'qemu-system-x86_64': 'qemu-system-x86',
  'qemu-img': 'qemu-utils',
  genisoimage: 'genisoimage',
  setpriv: 'util-linux',
}

/** Throws a StartupError if programs are missing. `npm start` installs them, but main.ts can be started without it. */
export function checkPrograms(path = PROGRAM_ENVIRONMENT.PATH): void {
  const missing = Object.entries(NEEDED).filter(([program]) => findProgram(program, path) === null)
  if (missing.length === 0) return
  const programs = missing.map(([program]) => program).join(', ')
  const packages = missing.map(([, name]) => name).join(' ')
  throw new StartupError(`Missing on this host: ${programs}. On Debian or Ubuntu: sudo apt-get install -y ${packages}`)
}

/** The path of a program, or null. */
export function findProgram(program: string, path = PROGRAM_ENVIRONMENT.PATH): string | null {
  const candidates = path.split(':').map((folder) => join(folder, program))
  return candidates.find((candidate) => existsSync(candidate)) ?? null
}
