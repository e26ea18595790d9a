import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../../e2e/control-plane.ts'

const CONNECTIONS = 32

/** Requests per second of one URL, measured by wrk: a GET, or a POST of `body`. Throws if a request fails. */
export async function wrk(url: string, seconds: number, key?: string, body?: string): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'cn-wrk-'))
  const script = join(folder, 'wrk.lua')
  const lines = [
    `wrk.headers["Authorization"] = "Bearer ${key ?? ''}"`,
    'wrk.headers["Content-Type"] = "application/json"',
  ]
  if (body) lines.push('wrk.method = "POST"', `wrk.body = ${JSON.stringify(body)}`)
  writeFileSync(script, lines.join('\n'))
  try {
    const out = await run('wrk', ['-t1', `-c${CONNECTIONS}`, `-d${seconds}s`, '-s', script, url])
    const failed = /Non-2xx or 3xx responses: (\d+)/.exec(out)
    if (failed) throw new Error(`${url}: ${failed[0]}`)
    return Number(/Requests\/sec:\s+([\d.]+)/.exec(out)![1])
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
