/**
 * A host in a network namespace, on which real guests run (testing-egress-guests.ts), as root or as the user that is given.
 * Run by egress.test.ts in a network and a mount namespace of its own; prints one JSON object. The networks around the
 * host are a second namespace (testing-outside.ts).
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { systemClock as clock } from '../../lib/clock.ts'
import { runProgram } from './run-program.ts'
import { testImage } from './testing.ts'
import { API_PORT, DNS, HOST, OUTSIDE, PORT, PUBLIC } from './testing-egress-addresses.ts'
import { greet } from './testing-greeting.ts'

const [folder, uid] = process.argv.slice(2) as [string, string | undefined]
const outside = await connectOutside()
await greet('127.0.0.1', PORT)
await greet('127.0.0.2', PORT)
await greet('127.0.0.9', PORT)
await greet(HOST, PORT)
await greet('0.0.0.0', API_PORT)
await runProgram(
  ['nft', '-f', '-'],
  5_000,
  `table inet operators {
    chain output { type filter hook output priority 10; policy accept; tcp dport 4242 counter drop; }
  }`,
)
const foreign = () => runProgram(['nft', 'list', 'table', 'inet', 'operators'])
const tables = async () => (await runProgram(['nft', 'list', 'tables'])).trim().split('\n')
const foreignBefore = await foreign()

if (uid !== undefined) await allowUsers()
const result = JSON.parse(await runGuests())
result.foreign_untouched = (await foreign()) === foreignBefore
result.tables_left = await tables()
outside.kill()
process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0))

/** What a typical host allows its users: network devices, and here also low ports, which the probes use. */
async function allowUsers(): Promise<void> {
  const device = join(folder, 'tun')
  await runProgram(['mknod', '--mode=666', device, 'c', '10', '200'])
  await runProgram(['mount', '--bind', device, '/dev/net/tun'])
  await writeFile('/proc/sys/net/ipv4/ip_unprivileged_port_start', '0')
}

async function runGuests(): Promise<string> {
  const script = join(import.meta.dirname, 'testing-egress-guests.ts')
  const user = uid === undefined ? [] : ['setpriv', '--reuid', uid, '--regid', uid, '--clear-groups', '--']
  const [program = '', ...args] = [...user, process.execPath, script]
  const env = { ...process.env, TEST_IMAGES_DIR: (await testImage()).images_dir }
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'inherit'] })
  let out = ''
  child.stdout.on('data', (chunk) => (out += chunk))
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(`the guests ended with ${code}`)
  return out
}

/** Connects this namespace with a second one, in which the services run. */
async function connectOutside() {
  const script = join(import.meta.dirname, 'testing-outside.ts')
  const child = spawn('unshare', ['--net', process.execPath, script, `${PORT}`, DNS, PUBLIC], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  await once(child, 'spawn')
  const pid = child.pid!
  const ip = (...args: string[]) => runProgram(['ip', ...args])
  const there = (...args: string[]) => runProgram(['nsenter', '-t', `${pid}`, '-n', 'ip', ...args])
  await ip('link', 'set', 'lo', 'up')
  await ip('link', 'add', 'host0', 'type', 'veth', 'peer', 'name', 'out0')
  for (let tries = 0; ; tries++) {
    // `unshare` has its own namespace once it has replaced itself.
    const [mine, its] = await Promise.all(['self', pid].map((each) => runProgram(['readlink', `/proc/${each}/ns/net`])))
    if (mine !== its) break
    if (tries > 500) throw new Error('no second namespace')
    await clock.sleep(10)
  }
  await ip('link', 'set', 'out0', 'netns', `${pid}`)
  await ip('addr', 'add', `${HOST}/24`, 'dev', 'host0')
  await ip('link', 'set', 'host0', 'up')
  await there('link', 'set', 'lo', 'up')
  for (const address of [`${PUBLIC}/24`, ...OUTSIDE.map((each) => `${each}/32`)])
    await there('addr', 'add', address, 'dev', 'out0')
  await there('link', 'set', 'out0', 'up')
  await there('route', 'add', 'default', 'via', HOST)
  await ip('route', 'add', 'default', 'via', PUBLIC)
  const resolvConf = join(folder, 'resolv.conf')
  await writeFile(resolvConf, `nameserver ${DNS}\n`)
  await runProgram(['mount', '--bind', resolvConf, '/etc/resolv.conf'])
  child.stdin.write('go\n')
  await once(child.stdout, 'data')
  return child
}
