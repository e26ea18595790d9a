/**
 * The command line of a machine. Pure. Rule S1: it contains no string of a tenant. Hostname, keys, user data and tags
 * are passed in files with fixed names (seed.ts). Every value is a number, matches a pattern of this file, or is a path
 * of the control plane. Devices, disks and networks are JSON, which needs no quoting; in the options that exist only as
 * `key=value` lists, commas are doubled.
 *
 * The chain of disks is explicit, down to `backing: null`, and every format is named. QEMU therefore never follows a file
 * name in a disk header, and neither a forged image nor a moved folder changes which file it opens.
 */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { isId } from '../../lib/id.ts'
import { InvalidSpecError, type MachineImage, type MachineSpec } from '../driver.ts'
import type { MachinePaths } from './machine-files.ts'
import type { NetworkDevices } from './network/network.ts'

export type CommandHost = {
  qemu_binary: string
  accelerator: 'kvm' | 'tcg'
  /** Absolute folder in `-name`, which identifies the process even if QEMU sees other paths. */
  identity_folder: string
  /** The folder of the image, as QEMU sees it. */
  image_folder: string
}

const MIB = 1024 * 1024
const SANDBOX = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'
/** Sizes of the buffers for what a guest writes to its console and to its ready port; powers of two. */
export const BUFFER_BYTES = { console: MIB, ready: 64 * 1024 }
/** ID of the ready port in QEMU's events. */
export const READY_PORT = 'ready'
/** The files that images such as `micro-linux` read through fw_cfg. */
export const FW_CFG_NAMES = ['instance-id', 'hostname', 'ssh-keys', 'user-data', 'network'] as const

/** A larger guest gets a larger translation cache, with which systemd boots in three quarters of the time. */
function acceleratorArguments(spec: MachineSpec, host: CommandHost): string[] {
  if (host.accelerator === 'kvm') return ['-accel', 'kvm', '-cpu', 'host']
  return ['-accel', `tcg,tb-size=${spec.memory_bytes < 512 * MIB ? 64 : 128}`, '-cpu', 'max']
}

/** The complete command, program first. Throws InvalidSpecError for a malformed value. */
export function qemuCommand(
  spec: MachineSpec,
  paths: MachinePaths,
  network: NetworkDevices,
  host: CommandHost,
): string[] {
  checkSpec(spec)
  return [
    host.qemu_binary,
    ...['-name', list({ guest: host.identity_folder })],
    ...['-uuid', uuidOf(spec.id)],
    ...['-nodefaults', '-no-user-config', '-display', 'none'],
    ...['-sandbox', SANDBOX],
    ...['-pidfile', paths.pid_file],
    ...['-action', 'panic=pause,shutdown=pause,reboot=reset'],
    ...['-M', 'q35'],
    ...acceleratorArguments(spec, host),
    ...['-smp', `${spec.vcpus}`, '-m', `${spec.memory_bytes / MIB}`],
    ...bootArguments(spec.image, host.image_folder),
    ...monitorArguments(paths),
    ...outputArguments(),
    ...diskArguments(spec, paths, join(host.image_folder, 'disk.qcow2')),
    ...network.netdevs.flatMap((netdev) => ['-netdev', JSON.stringify(netdev)]),
    ...network.devices.flatMap(device),
    ...[{ driver: 'virtio-rng-pci' }, { driver: 'virtio-balloon-pci', id: 'balloon' }].flatMap(device),
    ...device({ driver: 'pvpanic-pci' }),
    ...seedArguments(spec.image, paths),
  ]
}

function checkSpec(spec: MachineSpec): void {
  must(isId('inst', spec.id), 'id', spec.id)
  must(Number.isInteger(spec.vcpus) && spec.vcpus >= 1 && spec.vcpus <= 255, 'vcpus', spec.vcpus)
  const { memory_bytes } = spec
  must(memory_bytes > 0 && memory_bytes <= 2 ** 44 && memory_bytes % MIB === 0, 'memory_bytes', memory_bytes)
  checkImage(spec.image)
}

/** Throws InvalidSpecError unless the names of an image are relative paths below the images folder. */
export function checkImage(image: MachineImage): void {
  const name = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/
  must(
    image.folder.split('/').every((part) => name.test(part)),
    'image.folder',
    image.folder,
  )
  if (!image.boot) return
  must(name.test(image.boot.kernel), 'image.boot.kernel', image.boot.kernel)
  must(name.test(image.boot.initrd), 'image.boot.initrd', image.boot.initrd)
  must(/^[\x20-\x7e]{0,1024}$/.test(image.boot.append), 'image.boot.append', image.boot.append)
}

function must(condition: boolean, field: string, value: unknown): void {
  if (condition) return
  const internal = `illegal ${field}: ${JSON.stringify(value)?.slice(0, 200)}`
  throw new InvalidSpecError('invalid_spec', `The machine cannot be created: ${field} is not valid.`, internal)
}

function bootArguments(image: MachineImage, folder: string): string[] {
  if (!image.boot) return ['-boot', 'menu=off,strict=on']
  const { kernel, initrd, append } = image.boot
  return ['-kernel', join(folder, kernel), '-initrd', join(folder, initrd), '-append', append]
}

function monitorArguments(paths: MachinePaths): string[] {
  const sockets = { control: paths.control, monitor: paths.monitor }
  return Object.entries(sockets).flatMap(([id, path]) => [
    ...['-chardev', `socket,${list({ id, path, server: 'on', wait: 'off' })}`],
    ...['-mon', list({ chardev: id, mode: 'control' })],
  ])
}

/** What the guest writes stays in buffers of fixed size, from which output.ts reads it. */
function outputArguments(): string[] {
  const buffer = (id: keyof typeof BUFFER_BYTES) => ['-chardev', `ringbuf,${list({ id, size: `${BUFFER_BYTES[id]}` })}`]
  return [
    ...buffer('console'),
    ...['-serial', 'chardev:console'],
    ...buffer('ready'),
    ...device({ driver: 'virtio-serial-pci' }),
    ...device({ driver: 'virtserialport', id: READY_PORT, chardev: 'ready', name: 'cloudnexus.ready' }),
  ]
}

function diskArguments(spec: MachineSpec, paths: MachinePaths, base: string): string[] {
  const file = (filename: string, more: object = {}) => ({ driver: 'file', filename, aio: 'threads', ...more })
  const overlay = {
    'node-name': 'disk',
    driver: 'qcow2',
    discard: 'unmap',
    file: file(paths.disk, { discard: 'unmap' }),
    backing: { driver: 'qcow2', 'read-only': true, file: file(base, { 'read-only': true }), backing: null },
  }
  const onError = { werror: 'stop', rerror: 'stop' }
  const boot = spec.image.boot ? {} : { bootindex: 0 }
  return [
    ...['-blockdev', JSON.stringify(overlay)],
    ...device({ driver: 'virtio-blk-pci', drive: 'disk', serial: spec.id, ...onError, ...boot }),
  ]
}

function seedArguments(image: MachineImage, paths: MachinePaths): string[] {
  if (image.seed === 'fw_cfg')
    return FW_CFG_NAMES.flatMap((name) => [
      '-fw_cfg',
      list({ name: `opt/cloudnexus/${name}`, file: join(paths.fw_cfg, name) }),
    ])
  const seed = { driver: 'file', filename: paths.seed_iso, 'read-only': true }
  return [
    ...['-blockdev', JSON.stringify({ 'node-name': 'seed', driver: 'raw', 'read-only': true, file: seed })],
    ...device({ driver: 'virtio-blk-pci', drive: 'seed', serial: 'seed' }),
  ]
}

const device = (properties: object) => ['-device', JSON.stringify(properties)]

/** A `key=value` list of QEMU; commas in values are doubled. */
const list = (values: Record<string, string>) =>
  Object.entries(values)
    .map(([key, value]) => `${key}=${value.replaceAll(',', ',,')}`)
    .join(',')

/** The hardware UUID of a machine, the same in every run (RFC 9562, version 8). */
export function uuidOf(id: string): string {
  const hex = createHash('sha256').update(id).digest('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20, 32)}`
}
