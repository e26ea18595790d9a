import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** QEMU processes whose command line contains this data directory, without the programs that start them. */
export function qemuProcesses(dataDir: string): { pid: number; command: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => {
      try {
        return { pid: Number(name), command: readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ') }
      } catch {
        return { pid: 0, command: '' }
      }
    })
    .filter(({ pid, command }) => pid > 0 && /^\S*qemu-system/.test(command) && command.includes(`${dataDir}/`))
}

/** Processes, files, sockets and listeners that instances have left behind. */
export function leftovers(dataDir: string): string[] {
  const { id, loopback_block } = JSON.parse(readFileSync(join(dataDir, 'installation.json'), 'utf8'))
  const files = globSync('instances/**', { cwd: dataDir }).filter((name) => name !== 'instances')
  const runDir = `/run/cloudnexus-${id}`
  const sockets = existsSync(runDir)
    ? globSync('**/*.sock', { cwd: runDir }).filter((name) => name.includes('inst_'))
    : []
  const block = (loopback_block as string).split('.').slice(0, 3).join('.')
  return [
    ...qemuProcesses(dataDir).map(({ pid }) => `process ${pid}`),
    ...files.map((name) => `file ${name}`),
    ...sockets.map((name) => `socket ${name}`),
    ...listeners()
      .filter((address) => address.startsWith(`${block}.`))
      .map((address) => `listener ${address}`),
  ]
}

/** IP addresses and ports of listening TCP sockets on this host. */
function listeners(): string[] {
  const lines = readFileSync('/proc/net/tcp', 'utf8').split('\n').slice(1)
  return lines
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[3] === '0A')
    .map((fields) => {
      const [ip, port] = fields[1]!.split(':') as [string, string]
      const bytes = [6, 4, 2, 0].map((at) => Number.parseInt(ip.slice(at, at + 2), 16))
      return `${bytes.join('.')}:${Number.parseInt(port, 16)}`
    })
}
