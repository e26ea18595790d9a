import { isIP } from 'node:net'
import { isLoopback } from '../config/types.ts'
import type { Config, Plan } from '../config.ts'
import type { Hypervisor, Isolation } from '../drivers/driver.ts'
import { MACHINE_OVERHEAD_BYTES } from '../lib/capacity.ts'
import { rangesFor } from '../lib/tenant-ranges.ts'
import type { Limits } from './host.ts'

export type BannerFacts = {
  config: Config
  hypervisor: Hypervisor
  isolation: Isolation
  database: string
  limits: Limits
  public_addresses: string
  /** Port of a machine's SSH server on its public IP address. */
  ssh_port: number
  credentials_file: string
  ssh_key_file: string
  seconds: number
}

/** The text that a start prints: URLs and files, the capacity of this host, and a command that creates an instance. */
export function banner(facts: BannerFacts): string {
  const { config, hypervisor, limits } = facts
  const url = config.public_url
  const rows: [string, string][] = [
    ['API', url],
    ['Console', `${url}/console`],
    ['API description', `${url}/openapi.json`],
    ...remoteNote(config),
    ['Keys', facts.credentials_file],
    ['Region', config.region.id],
    ['Hypervisor', `${hypervisor.name}, ${hypervisor.accelerator.toUpperCase()}`],
    ['', hypervisor.reason],
    ['Database', facts.database],
    ['Capacity', `${limits.vcpus} vCPUs, ${gib(limits.memory_bytes)} memory, ${gib(limits.disk_bytes)} disk`],
    ...config.plans.flatMap((plan) => planNote(plan, limits)),
    [
      'Public addresses',
      `${facts.public_addresses}${isLoopback(facts.public_addresses.split('/')[0]!) ? ', reachable from this host' : ''}`,
    ],
    ['SSH', sshLine(facts)],
    ...guestRows(facts),
    ['Webhooks', `to the public internet by HTTPS${config.webhook_allow.map((range) => ` and to ${range}`).join('')}`],
    ['Images', `from the public internet${config.image_allow.map((range) => ` and ${range}`).join('')}`],
    ...loopbackNote(config),
  ]
  const width = Math.max(...rows.map(([name]) => name.length))
  return [
    '',
    `CloudNexus ${config.version} is ready, after ${facts.seconds.toFixed(1)} s.`,
    '',
    ...rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`),
    '',
    'To create an instance:',
    '',
    firstInstance(facts),
    '',
    'Ctrl-C stops the control plane. Machines keep running, and the next start adopts them.',
    '',
    '',
  ].join('\n')
}

/** A shell command that creates an instance. It reads the API key from its file, so that the key is not printed. */
function firstInstance({ config, credentials_file }: BannerFacts): string {
  const body = {
    region: config.region.id,
    plan: config.plans[0]!.id,
    image: 'micro-linux',
    network: { assign_public_ip: true },
  }
  const key = `$(sed -n 's/.*"live_key": "\\(.*\\)".*/\\1/p' ${quote(credentials_file)})`
  return [
    `  curl -s ${quote(`${config.public_url}/v2/instances`)} \\`,
    `    -H "Authorization: Bearer ${key}" \\`,
    `    -H 'Content-Type: application/json' \\`,
    `    -d ${quote(JSON.stringify(body))}`,
  ].join('\n')
}

/** Services on the loopback interface of the host are the operator's. */
function loopbackNote({ webhook_allow, image_allow, allow_tenant_loopback }: Config): [string, string][] {
  const lists = [webhook_allow, image_allow]
  const isLimited = lists.some((list) => rangesFor({ allow_tenant_loopback }, list, false).length < list.length)
  return isLimited ? [['', 'loopback addresses: for the first project only']] : []
}

function sshLine({ ssh_key_file, ssh_port }: BannerFacts): string {
  const port = ssh_port === 22 ? '' : `-p ${ssh_port} `
  return `ssh -i ${quote(ssh_key_file)} -o StrictHostKeyChecking=accept-new ${port}root@PUBLIC_IP`
}

/** What guests reach, and who can create them. */
function guestRows({ config, isolation }: BannerFacts): [string, string][] {
  const reached = ['the public internet', 'DNS', ...config.guest_allow].join(', ')
  if (isolation.egress === 'filtered') return [['Guests', `reach only: ${reached}`]]
  const who = config.allow_unfiltered_guests
    ? 'all projects can create live instances (allow_unfiltered_guests)'
    : 'only the first project can create live instances'
  return [
    ['Guests', 'NOT ISOLATED: they reach the services and private networks of this host'],
    ['', `${isolation.reason}; ${who}`],
  ]
}

function planNote(plan: Plan, limits: Limits): [string, string][] {
  const exceeded = [
    plan.vcpus > limits.vcpus ? 'vCPUs' : '',
    plan.memory_bytes + MACHINE_OVERHEAD_BYTES > limits.memory_bytes ? 'memory' : '',
    plan.disk_bytes > limits.disk_bytes ? 'disk' : '',
  ].filter((name) => name !== '')
  return exceeded.length === 0 ? [] : [['', `not enough ${exceeded.join(' and ')} for ${plan.id}`]]
}

function remoteNote(config: Config): [string, string][] {
  if (isLoopback(config.host)) return []
  return [
    [
      '',
      `listening on ${isIP(config.host) === 6 ? `[${config.host}]` : config.host}:${config.port} without TLS; --public-url sets the base URL of links`,
    ],
  ]
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`
}

/** Quotes a word for a POSIX shell, where needed. */
function quote(text: string): string {
  return /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
