/**
 * The rules for what machines send, as a script for nft. Pure.
 *
 * QEMU's user-mode network connects on behalf of a guest with sockets of the machine's user, so one chain at the output of
 * the host sees all of it, whatever the guest does with its routes. A guest reaches public unicast addresses, DNS servers
 * of the host and what the operator allows. The order of the rules matters: replies of forwarded ports and frames of the
 * private networks pass first, then the API is refused, and only then the operator's ranges are allowed, so that no range
 * makes a guest a client of the API with an IP address of the host.
 *
 * Without root the same rules act on all that leaves the network namespace of the machines (guest-network.ts).
 */
import { isIP } from 'node:net'
import { networkOf } from '../../lib/ip.ts'
import { MACHINE_USERS } from './users.ts'

/** IPv4 ranges that are not public unicast (IANA's registries of special-purpose and multicast addresses). */
export const NOT_PUBLIC_IPV4 = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.31.196.0/24',
  '192.52.193.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '192.175.48.0/24',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/3',
]

/** The same for IPv6: everything outside 2000::/3, and the special ranges inside. */
export const NOT_PUBLIC_IPV6 = [
  '::/3',
  '4000::/2',
  '8000::/1',
  '2001::/23',
  '2001:db8::/32',
  '2002::/16',
  '2620:4f:8000::/48',
  '3fff::/20',
]

export type EgressPolicy = {
  installation_id: string
  /** The first of MACHINE_USERS user IDs of machines; null if the table is in the namespace of all machines. */
  first_uid: number | null
  /** IP addresses and ranges of the host, where the table is in a namespace that does not know them. */
  host_addresses?: readonly string[]
  /** Private networks are UDP ports of this group, from the base on. */
  multicast_group: string
  multicast_port_base: number
  /** TCP ports of the control plane, which no guest reaches at an address of the host. */
  refused_ports: readonly number[]
  /** The DNS servers of the host. */
  resolvers: readonly string[]
  /** CIDR ranges and IP addresses that the operator allows. */
  allow: readonly string[]
}

/** The IP addresses of the host: those that the kernel knows, and those of `host_addresses`. */
const HOST_ADDRESSES = ['fib daddr type local', 'ip daddr @host4', 'ip6 daddr @host6']

/** Name of the table of an installation. */
export const tableOf = (installation_id: string) => `cloudnexus_${installation_id.replaceAll('-', '_')}`

/** The script that replaces the table in one transaction, so that there is no moment without the rules. */
export function egressScript(policy: EgressPolicy): string {
  const table = tableOf(policy.installation_id)
  const { first_uid, host_addresses = [], multicast_group, multicast_port_base } = policy
  const refuse = 'counter reject with icmpx type admin-prohibited'
  const ports = [...new Set(policy.refused_ports)]
  return [
    ...removalLines(table),
    `table inet ${table} {`,
    ...rangeSet('not_public4', 'ipv4_addr', NOT_PUBLIC_IPV4),
    ...rangeSet('not_public6', 'ipv6_addr', NOT_PUBLIC_IPV6),
    ...rangeSet('allowed4', 'ipv4_addr', ofFamily(policy.allow, 4)),
    ...rangeSet('allowed6', 'ipv6_addr', ofFamily(policy.allow, 6)),
    ...rangeSet('resolvers4', 'ipv4_addr', ofFamily(policy.resolvers, 4)),
    ...rangeSet('resolvers6', 'ipv6_addr', ofFamily(policy.resolvers, 6)),
    ...rangeSet('host4', 'ipv4_addr', ofFamily(host_addresses, 4)),
    ...rangeSet('host6', 'ipv6_addr', ofFamily(host_addresses, 6)),
    'chain output {',
    'type filter hook output priority filter; policy accept;',
    first_uid === null ? 'goto guests' : `meta skuid ${first_uid}-${first_uid + MACHINE_USERS - 1} goto guests`,
    '}',
    'chain guests {',
    'ct state established,related accept',
    `oifname "lo" ip saddr 127.0.0.1 ip daddr ${multicast_group} udp dport ${multicast_port_base}-65535 accept`,
    ...(ports.length > 0 ? HOST_ADDRESSES.map((its) => `${its} tcp dport { ${ports.join(', ')} } ${refuse}`) : []),
    'meta l4proto { tcp, udp } th dport 53 ip daddr @resolvers4 accept',
    'meta l4proto { tcp, udp } th dport 53 ip6 daddr @resolvers6 accept',
    'ip daddr @allowed4 accept',
    'ip6 daddr @allowed6 accept',
    `fib daddr type { local, broadcast, anycast, multicast } ${refuse}`,
    `ip daddr @host4 ${refuse}`,
    `ip6 daddr @host6 ${refuse}`,
    `ip daddr @not_public4 ${refuse}`,
    `ip6 daddr @not_public6 ${refuse}`,
    '}',
    '}',
    '',
  ].join('\n')
}

/** The script that removes the table; no error if there is none. */
export const removalScript = (installation_id: string) => removalLines(tableOf(installation_id)).join('\n')

/** The first line makes the second succeed where the table does not exist. */
const removalLines = (table: string) => [`table inet ${table} {}`, `delete table inet ${table}`]

function rangeSet(name: string, type: string, ranges: readonly string[]): string[] {
  const elements = ranges.length > 0 ? [`elements = { ${ranges.join(', ')} };`] : []
  return [`set ${name} {`, `type ${type}; flags interval; auto-merge;`, ...elements, '}']
}

/** The ranges of one family as nft accepts them: without bits behind the prefix, IPv4-mapped addresses as IPv4. */
function ofFamily(ranges: readonly string[], family: 4 | 6): string[] {
  return ranges.map(canonical).filter((range) => isIP(range.split('/')[0]!) === family)
}

function canonical(text: string): string {
  const network = networkOf(text)
  if (network === null) throw new TypeError(`not an address range: ${JSON.stringify(text)}`)
  return network.range
}

/** The IP addresses of the DNS servers in the text of a resolv.conf. */
export function resolversIn(text: string): string[] {
  const servers = [...text.matchAll(/^[ \t]*nameserver[ \t]+(\S+)/gm)].map(([, address]) => address!.split('%')[0]!)
  return [...new Set(servers.filter((address) => isIP(address) !== 0))]
}
