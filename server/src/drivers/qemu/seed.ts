/**
 * The seed that configures a guest. The tenant's strings appear only in the content of files with fixed names: fw_cfg
 * files for the micro-linux guest, or an ISO volume (NoCloud) for cloud-init. The instance ID that the guest sees includes
 * the disk number, so that user data runs once per disk. Structured files are JSON, a subset of YAML, so that no value
 * can become syntax.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { MachineSpec } from '../driver.ts'
import type { FW_CFG_NAMES } from './command.ts'
import { publicMac } from './network/user.ts'
import { runProgram } from './run-program.ts'

type Contents = Record<string, string | Uint8Array>

/** The instance ID that the guest sees: one per disk. */
const guestInstanceId = (spec: MachineSpec) => `${spec.id}-d${spec.disk}`

/** The files for `micro-linux`, one value each. The network is `<mac> dhcp` and `<mac> <address>/<prefix>`. */
export function fwCfgFiles(spec: MachineSpec): Record<(typeof FW_CFG_NAMES)[number], string | Uint8Array> {
  const { mac, private_ip, prefix_length } = spec.network
  return {
    'instance-id': `${guestInstanceId(spec)}\n`,
    hostname: `${oneLine(spec.hostname)}\n`,
    'ssh-keys': spec.ssh_public_keys.map((key) => `${oneLine(key)}\n`).join(''),
    'user-data': spec.user_data ?? '',
    network: `${publicMac(spec.id, mac)} dhcp\n${mac} ${private_ip}/${prefix_length}\n`,
  }
}

/** The files of a NoCloud volume. The tenant's user data is unchanged; the platform's configuration is vendor data. */
export function noCloudFiles(spec: MachineSpec): Contents {
  const { mac, private_ip, prefix_length } = spec.network
  const card = (macaddress: string, more: object) => ({ match: { macaddress }, ...more })
  const meta = {
    'instance-id': guestInstanceId(spec),
    'local-hostname': oneLine(spec.hostname),
    'public-keys': spec.ssh_public_keys.map(oneLine),
  }
  const network = {
    version: 2,
    ethernets: {
      eth0: card(publicMac(spec.id, mac), { dhcp4: true }),
      eth1: card(mac, { dhcp4: false, optional: true, addresses: [`${private_ip}/${prefix_length}`] }),
    },
  }
  return {
    'meta-data': yaml(meta),
    'user-data': spec.user_data ?? '#cloud-config\n{}\n',
    'vendor-data': VENDOR_DATA,
    'network-config': yaml(network),
  }
}

/** Writes the seed of a new machine and returns the files that QEMU must be able to read. */
export async function writeSeed(spec: MachineSpec, folder: string): Promise<string[]> {
  if (spec.image.seed === 'fw_cfg') return writeFiles(join(folder, 'fwcfg'), fwCfgFiles(spec))
  const source = join(folder, 'seed')
  const iso = join(folder, 'seed.iso')
  await writeFiles(source, noCloudFiles(spec))
  await writeFile(iso, '', { mode: 0o600 })
  await runProgram(['genisoimage', '-quiet', '-output', iso, '-volid', 'cidata', '-joliet', '-rational-rock', source])
  await rm(source, { recursive: true })
  return [iso]
}

async function writeFiles(folder: string, contents: Contents): Promise<string[]> {
  await mkdir(folder, { mode: 0o710 })
  const names = Object.keys(contents).map((name) => join(folder, name))
  for (const [name, content] of Object.entries(contents)) await writeFile(join(folder, name), content, { mode: 0o600 })
  return [folder, ...names]
}

/** Replaces line breaks, which would split a key or a hostname into several. */
const oneLine = (text: string) => text.replace(/[\r\n\0]+/g, ' ')

/** JSON for a YAML 1.1 parser: characters that such a parser rejects as unprintable are escaped. */
export function yaml(value: object): string {
  const json = JSON.stringify(value, (_key, each) => (typeof each === 'string' ? each.toWellFormed() : each))
  return `${json.replace(/[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]/g, escaped)}\n`
}

const escaped = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`

/**
 * Runs early in each boot and starts a unit that signals that the guest is ready when sshd listens, even while user data
 * still runs, or after 30 s if the image has no sshd. The same process then writes the heartbeat (heartbeat.ts), because
 * only one process at a time can open the port. The OOM killer avoids the unit, and systemd restarts it on failure.
 */
const BOOTHOOK = `#cloud-boothook
#!/bin/sh
exec systemd-run --no-block --quiet --collect --unit=cloudnexus-ready \\
  --property=After="cloud-init.service cloud-init-network.service ssh.service ssh.socket sshd.service" \\
  --property=Restart=on-failure --property=OOMScoreAdjust=-900 \\
  /bin/sh -c '
    tries=0
    until grep -q ":0016 0*:0000 0A " /proc/net/tcp /proc/net/tcp6 || [ $tries = 150 ]; do
      tries=$((tries + 1))
      sleep 0.2
    done
    port=/dev/virtio-ports/cloudnexus.ready
    [ -c $port ] || exit 0
    echo "ready $(cat /proc/sys/kernel/random/boot_id)" >$port
    trap "echo bye >$port; exit 0" TERM
    while :; do
      echo alive >$port
      sleep 10 &
      wait
    done'
`

const BOUNDARY = '==cloudnexus-vendor-data=='

const part = (type: string, name: string, body: string) =>
  `--${BOUNDARY}\nContent-Type: ${type}; charset="utf-8"\nMIME-Version: 1.0\nContent-Disposition: attachment; filename="${name}"\n\n${body}\n`

const VENDOR_DATA = `Content-Type: multipart/mixed; boundary="${BOUNDARY}"
MIME-Version: 1.0

${part('text/cloud-config', 'root.yaml', '#cloud-config\ndisable_root: false\n')}${part('text/cloud-boothook', 'ready.sh', BOOTHOOK)}--${BOUNDARY}--
`
