import { spawn } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { identify, isAlive, type ProcessIdentity } from '../lib/processes.ts'
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

/** The live importer of a job directory, or null. */
export function runningImporter(jobDir: string): ProcessIdentity | null {
  try {
    const recorded = JSON.parse(readFileSync(identityFile(jobDir), 'utf8')) as ProcessIdentity
    return isAlive(recorded) ? recorded : null
  } catch {
    return null
  }
}

const identityFile = (jobDir: string): string => join(jobDir, 'process.json')
