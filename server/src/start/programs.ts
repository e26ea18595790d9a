import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { PROGRAM_ENVIRONMENT } from '../drivers/qemu/run-program.ts'
import { StartupError } from '../lib/errors.ts'

/** Programs without which no machine can run, and the Debian packages they are in. */
const NEEDED = {
  'qemu-system-x86_64': 'qemu-system-x86',
  'qemu-img': 'qemu-utils',
  genisoimage: 'genisoimage',
  setpriv: 'util-linux',
}

/** Refuses a host that lacks programs; `setup` installs them before `npm start`, but main.ts may be run without it. */
export function checkPrograms(path = PROGRAM_ENVIRONMENT.PATH): void {
  const missing = Object.entries(NEEDED).filter(([program]) => findProgram(program, path) === null)
  if (missing.length === 0) return
  const programs = missing.map(([program]) => program).join(', ')
  const packages = missing.map(([, name]) => name).join(' ')
  throw new StartupError(`Missing on this host: ${programs}. On Debian or Ubuntu: sudo apt-get install -y ${packages}`)
}

/** The first place of the path that has the program, or null. */
export function findProgram(program: string, path = PROGRAM_ENVIRONMENT.PATH): string | null {
  const places = path.split(':').map((folder) => join(folder, program))
  return places.find((place) => existsSync(place)) ?? null
}
