import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  globSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { MachineImage } from '../drivers/driver.ts'
import { StartupError } from '../lib/errors.ts'
import { readFileOrNull } from '../lib/files.ts'

const RECIPES = join(import.meta.dirname, '../../../images')
/** The image that every installation has; it also tests the accelerator. */
const MICRO_LINUX = { id: 'img_microlinux', recipe: 'micro-linux' }
const DIGEST_FILE = 'recipe-digest'
const DEADLINE_MS = 10 * 60_000

/**
 * Builds micro-linux into <data-dir>/images if it is missing or its recipe has changed. Disks of instances are overlays of
 * the image's disk, so an existing image is replaced only if there are no instances.
 */
export async function ensureMicroLinux(dataDir: string, report: (line: string) => void): Promise<MachineImage> {
  const folder = join(dataDir, 'images', MICRO_LINUX.id)
  const digest = recipeDigest(MICRO_LINUX.recipe)
  const isBuilt = existsSync(join(folder, 'manifest.json'))
  // An image without a digest was placed there by the operator, and stays.
  const isCurrent = isBuilt && (readFileOrNull(join(folder, DIGEST_FILE)) ?? digest) === digest
  if (!isBuilt || (!isCurrent && !hasInstances(dataDir))) await build(folder, digest, report)
  const { boot, seed, ready_signal } = readManifest(join(folder, 'manifest.json'))
  return { id: MICRO_LINUX.id, folder: MICRO_LINUX.id, boot, seed, ready_signal }
}

function readManifest(file: string): MachineImage {
  try {
    const manifest = JSON.parse(readFileOrNull(file) ?? '') as MachineImage | null
    if (manifest?.seed && manifest.ready_signal) return manifest
  } catch (error) {
    if (error instanceof StartupError) throw error
  }
  throw new StartupError(`${file} is damaged. Restore the folder from a backup: disks of instances depend on it.`)
}

async function build(folder: string, digest: string, report: (line: string) => void): Promise<void> {
  const fresh = `${folder}.new`
  rmSync(fresh, { recursive: true, force: true })
  mkdirSync(fresh, { recursive: true, mode: 0o755 })
  report('building the micro-linux image')
  await runRecipe(join(RECIPES, MICRO_LINUX.recipe, 'build.sh'), fresh, report)
  writeFileSync(join(fresh, DIGEST_FILE), digest)
  rmSync(folder, { recursive: true, force: true })
  renameSync(fresh, folder)
}

function runRecipe(script: string, folder: string, report: (line: string) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('bash', [script, folder], { stdio: ['ignore', 'pipe', 'pipe'], timeout: DEADLINE_MS })
    let errors = ''
    let line = ''
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      const lines = (line + chunk).split('\n')
      line = lines.pop()!
      for (const text of lines) report(`  ${text.replace(/^progress [\d.]+ /, '')}`)
    })
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      errors = (errors + chunk).slice(-2_000)
    })
    child.on('error', (error) => reject(new StartupError(`Cannot build the micro-linux image: ${error.message}`)))
    child.on('close', (code) => {
      if (code === 0) return resolve()
      const reason = errors.trim().split('\n').slice(-3).join('\n') || 'it took longer than 10 minutes'
      reject(new StartupError(`Cannot build the micro-linux image: ${reason}`))
    })
  })
}

function hasInstances(dataDir: string): boolean {
  const folder = join(dataDir, 'instances')
  return existsSync(folder) && readdirSync(folder).some((name) => name.startsWith('inst_'))
}

/** The digest of all files of this repository that the image is built from. */
function recipeDigest(recipe: string): string {
  const files = globSync(['lib.sh', 'initrd/**', `${recipe}/**`], { cwd: RECIPES })
    .filter((name) => statSync(join(RECIPES, name)).isFile())
    .sort()
  const hash = createHash('sha256')
  for (const name of files) hash.update(`${name}\0`).update(readFileSync(join(RECIPES, name)))
  return hash.digest('hex')
}
