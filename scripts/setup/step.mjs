import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** Something that the user can mend: one clear message, exit code 1. */
export class SetupError extends Error {}

const HEARTBEAT_MS = 5_000
const KEPT_OUTPUT = 20_000

/** Prints what is done and, at the end, how long it took. */
export async function step(what, work) {
  const begin = performance.now()
  process.stdout.write(`setup: ${what}\n`)
  await work()
  process.stdout.write(`setup: done in ${((performance.now() - begin) / 1000).toFixed(1)} s\n`)
}

/**
 * Runs a program to its end and keeps what it prints; says every few seconds that it is still at work, with what
 * `doing` makes of its last line. Past the deadline it is ended.
 * @returns {Promise<{ code: number, output: string }>} 127 when there is no such program
 */
export function run(command, args, { deadlineMs, env = process.env, cwd, doing = (line) => line }) {
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
      const now = doing(output.trimEnd().split('\n').pop() ?? '').slice(0, 100)
      process.stdout.write(`setup:   ${Math.round((performance.now() - begin) / 1000)} s${now ? ` · ${now}` : ''}\n`)
    }, HEARTBEAT_MS)
    const deadline = setTimeout(() => {
      output += `\nended after ${deadlineMs / 1000} s`
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

/** Folders in which programs are looked for; the system's own are often missing from an ordinary user's PATH. */
export function programFolders() {
  return [...(process.env.PATH ?? '').split(':').filter(Boolean), '/usr/sbin', '/sbin']
}

/** True when the program is in one of the folders, or the absolute path exists. */
export function isThere(probe) {
  if (probe.startsWith('/')) return existsSync(probe)
  return programFolders().some((folder) => existsSync(join(folder, probe)))
}
