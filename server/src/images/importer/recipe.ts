/** Builds an image on this host with a script of the project (see images/): `script OUTPUT_DIR`. */
import { spawn } from 'node:child_process'
import { mkdirSync, rmSync } from 'node:fs'
import { dirname } from 'node:path'
import { createInterface } from 'node:readline'
import { systemClock } from '../../lib/clock.ts'
import { killLeftovers, scriptEnvironment, track } from './children.ts'
import { ImportError } from './errors.ts'
import type { RecipeJob } from './job.ts'
import { jobPaths } from './job-files.ts'
import { checkOutput } from './manifest.ts'
import type { Reporter } from './reporter.ts'
import { plain } from './text.ts'

const SILENCE_TIMEOUT_SECONDS = 600
const MAX_ERROR_LINES = 40

/** Runs the script with an empty `output/`. Lines `progress 0.35 text` of its output update the status. Throws ImportError. */
export async function buildImage(jobDir: string, job: RecipeJob, reporter: Reporter): Promise<void> {
  const paths = jobPaths(jobDir)
  const silenceSeconds = job.silence_timeout_seconds ?? SILENCE_TIMEOUT_SECONDS
  reporter.phase('building', 'building the image')
  rmSync(paths.output, { recursive: true, force: true })
  mkdirSync(paths.output, { mode: 0o755 })

  const result = await runScript(jobDir, job.script, silenceSeconds * 1000, reporter)
  await killLeftovers(jobDir)
  const stderr = result.errors.join('\n')
  if (result.timedOut) {
    throw failed(
      `its script wrote no output for ${silenceSeconds} s and was stopped. Check the network of this host`,
      stderr,
    )
  }
  if (result.code !== 0) {
    const last = result.errors.at(-1) ?? exitReason(result.code)
    // The message must not contain paths of this host.
    const local = last.replaceAll(`${jobDir}/`, '').replaceAll(`${dirname(job.script)}/`, '')
    throw failed(plain(local, 300), stderr)
  }
  try {
    checkOutput(paths)
  } catch (error) {
    throw failed('its output is incomplete', String(error))
  }
}

type ScriptResult = { code: number | null; timedOut: boolean; errors: string[] }

function runScript(jobDir: string, script: string, silenceMs: number, reporter: Reporter): Promise<ScriptResult> {
  const child = spawn(script, [jobPaths(jobDir).output], {
    cwd: jobDir,
    env: scriptEnvironment(jobDir),
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true, // leads a process group, which can be killed as a whole
  })
  const kill = track(child, { group: true })
  const result: ScriptResult = { code: null, timedOut: false, errors: [] }
  let timeout = { cancel() {} }
  const restartTimeout = () => {
    timeout.cancel()
    timeout = systemClock.after(silenceMs, () => {
      result.timedOut = true
      kill()
      killLeftovers(jobDir).catch(() => {}) // processes that left the group may keep the pipes open
    })
  }
  restartTimeout()
  createInterface(child.stdout!).on('line', (line) => {
    restartTimeout()
    const [, fraction, text] = /^progress (\d(?:\.\d+)?) (.*)$/.exec(line.slice(0, 1000)) ?? []
    if (fraction !== undefined) reporter.fraction(Number(fraction), plain(text!, 200))
  })
  createInterface(child.stderr!).on('line', (line) => {
    restartTimeout()
    if (line.trim() !== '') result.errors = [...result.errors, line.slice(0, 1000)].slice(-MAX_ERROR_LINES)
  })
  return new Promise((resolve, reject) => {
    child.once('error', (error) => {
      timeout.cancel()
      reject(failed('its script could not be started', String(error)))
    })
    child.once('close', (code) => {
      timeout.cancel()
      resolve({ ...result, code })
    })
  })
}

function exitReason(code: number | null): string {
  return code === null ? 'its script was killed by a signal' : `its script exited with code ${code}`
}

function failed(why: string, detail: string): ImportError {
  return new ImportError('image_build_failed', `The image could not be built on this host: ${why}`, detail)
}
