/**
 * The entry point: from the command line to a running control plane. `control-plane.ts` is imported once Node's compile
 * cache is on, which nearly halves the time of that import; `--help` does not need it at all.
 */
import { enableCompileCache } from 'node:module'
import { join } from 'node:path'
import { helpText } from './config/help.ts'
import { readConfig, readVersion } from './config.ts'
import { systemClock as clock } from './lib/clock.ts'
import { StartupError } from './lib/errors.ts'
import { createLog } from './lib/log.ts'
import { createShutdown } from './start/shutdown.ts'

/** Where this user cannot write it, Node compiles everything at each start. */
const COMPILE_CACHE = join(import.meta.dirname, '../../node_modules/.cache/compile')

// A stricter mask would hide images and sockets from the users that machines run as. Private files have modes of their own.
process.umask(0o022)
await run()

async function run(): Promise<void> {
  const invocation = parse()
  if (invocation.kind === 'help') return void process.stdout.write(helpText())
  if (invocation.kind === 'version') return void process.stdout.write(`${readVersion()}\n`)
  const { settings, take_over } = invocation
  const log = createLog({ level: settings.log_level, pretty: process.stderr.isTTY })
  // The control plane continues when the reader of its output closes the pipe.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  process.on('uncaughtException', (error) => {
    log.error({ error: error.stack }, 'a bug: the control plane ends; start it again')
    process.exit(1)
  })
  const shutdown = createShutdown(clock, log)
  try {
    enableCompileCache(COMPILE_CACHE)
    const { startControlPlane } = await import('./control-plane.ts')
    process.stdout.write(await shutdown.start(() => startControlPlane({ settings, take_over, log, shutdown })))
  } catch (error) {
    if (shutdown.signal.aborted) {
      // A stop has ended the start.
      if (error !== shutdown.signal.reason) log.info({ error: explain(error) }, 'the start failed while it was stopped')
      return
    }
    process.stderr.write(`${explain(error)}\n`)
    await shutdown.stop(1)
  }
}

function parse(): ReturnType<typeof readConfig> {
  try {
    return readConfig(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`${explain(error)}\n`)
    process.exit(1)
  }
}

/** One clear line for an error that the operator can correct; the stack for a bug. */
function explain(error: unknown): string {
  if (error instanceof StartupError) return error.message
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
