import { execFile } from 'node:child_process'

/** The environment of every program; nothing is inherited from the control plane. */
export const PROGRAM_ENVIRONMENT = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LANG: 'C' }

/**
 * Runs a short-lived program without a shell and returns its output. Rejects with the end of its error output, and with
 * the exit code, or the name of the system's error, as `code` of the cause.
 * @param input what the program reads; nothing if absent
 */
export function runProgram(argv: string[], timeoutMs = 30_000, input?: string): Promise<string> {
  const [program, ...args] = argv
  return new Promise((resolve, reject) => {
    const options = {
      cwd: '/',
      env: PROGRAM_ENVIRONMENT,
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
      maxBuffer: 1 << 20,
    } as const
    const child = execFile(program!, args, options, (error, stdout, stderr) => {
      if (!error) return resolve(stdout)
      reject(new Error(`${program}: ${stderr.trim().slice(-500) || error.message.slice(0, 200)}`, { cause: error }))
    })
    // A program that ends without reading its input closes the pipe; its exit code says why.
    child.stdin?.on('error', () => {}).end(input)
  })
}
