import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** An error that the user can correct: one clear message, exit code 1. */
export class SetupError extends Error {}

const HEARTBEAT_MS = 5_000
const KEPT_OUTPUT = 20_000

/** Prints what is being done and, at the end, how long it took. */
export async function step(what, work) {
  const begin = performance.now()
  process.stdout.write(`setup: ${what}\n`)
  await work()
  process.stdout.write(`setup: done in ${((performance.now() - begin) / 1000).toFixed(1)} s\n`)
}

/**
 * Runs a program and captures the end of its output. Every few seconds it prints the elapsed time and what `progress`
 * returns for the last line. After the deadline the program is killed.
 * @returns {Promise<{ code: number, output: string }>} code 127 if the program does not exist
 */
export function run(command, args, { deadlineMs, env = process.env, cwd, progress = (line) => line }) {
  return new Promise((resolve) => {
    const begin = performance.now()
    const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const keep = (chunk) => {
      output = (output + chunk).slice(-KEPT_OUTPUT)
    }
    child.stdout.setEncoding('utf8').on('data', keep)
    child.stderr.setEncoding('utf8').on('data', keep)
    const heartbeat = setInterval(() => {
      const now = progress(output.trimEnd().split('\n').pop() ?? '').slice(0, 100)
      process.stdout.write(`setup:   ${Math.round((performance.now() - begin) / 1000)} s${now ? ` · ${now}` : ''}\n`)
    }, HEARTBEAT_MS)
    const deadline = setTimeout(() => {
      output += `\nkilled after ${deadlineMs / 1000} s`
      child.kill('SIGKILL')
    }, deadlineMs)
    const finish = (code) => {
      clearInterval(heartbeat)
      clearTimeout(deadline)
      resolve({ code, output })
    }
    child.on('error', () => finish(127))
    child.on('close', (code) => finish(code ?? 1))
  })
}

/** The first of these lines, indented, for an error message. */
export function head(lines) {
  return indent(lines.slice(0, 8))
}

/** The last lines of an output, indented, for an error message. */
export function tail(output) {
  return indent(output.trim().split('\n').slice(-8))
}

function indent(lines) {
  return lines.map((line) => `  ${line}`).join('\n')
}

/** Folders that are searched for programs; an ordinary user's PATH often lacks the system's own. */
function programFolders() {
  return [...(process.env.PATH ?? '').split(':').filter(Boolean), '/usr/sbin', '/sbin']
}

/** True if one of the folders has the program, or if the absolute path exists. */
export function isThere(probe) {
  if (probe.startsWith('/')) return existsSync(probe)
  return programFolders().some((folder) => existsSync(join(folder, probe)))
}
