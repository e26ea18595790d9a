import { spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { identify, isAlive, type ProcessIdentity, whileAlive } from '../lib/processes.ts'
import { writeAtomically } from './importer/files.ts'

const MAIN = join(import.meta.dirname, 'importer/main.ts')

/**
 * Starts the importer of a job directory in its own session with files as stdio, so that it outlives this process, and
 * records its identity. A second importer that is started by mistake finds the job locked and exits.
 */
export function startImporter(jobDir: string): void {
  mkdirSync(jobDir, { recursive: true, mode: 0o700 })
  const log = openSync(join(jobDir, 'importer.log'), 'a', 0o600)
  try {
    const child = spawn(process.execPath, [MAIN, jobDir], { detached: true, stdio: ['ignore', log, log] })
    child.on('error', () => {}) // `runningImporter` then returns null
    child.unref()
    const identity = child.pid === undefined ? null : identify(child.pid)
    if (identity) writeAtomically(identityFile(jobDir), JSON.stringify(identity), { durable: false })
  } finally {
    closeSync(log)
  }
}

/** The live importer of a job directory, or null. Throws if neither can be said. */
export function runningImporter(jobDir: string): ProcessIdentity | null {
  const text = whileAlive(() => readFileSync(identityFile(jobDir), 'utf8'))
  if (text === null) return null
  const recorded = parse(text)
  return recorded && isAlive(recorded) ? recorded : null
}

/** Null for a file that a crash of the host has left incomplete: then no importer has survived. */
function parse(text: string): ProcessIdentity | null {
  try {
    return JSON.parse(text) as ProcessIdentity
  } catch {
    return null
  }
}

const identityFile = (jobDir: string): string => join(jobDir, 'process.json')
