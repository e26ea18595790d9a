/**
 * Validates the header of an untrusted qcow2 file (see docs/interop/qcow2.rst of QEMU). Everything that could make QEMU
 * open another file is `image_unsafe`, and so is every unknown incompatible feature. Invalid values (tables outside of
 * the file, invalid sizes) are `image_format_unsupported`.
 */
import { ImportError } from './errors.ts'
import { size } from './text.ts'

/** The first bytes and the last sector of a file (`HEAD_BYTES`, `TAIL_BYTES` of header.ts), and its size. */
export type Sample = { head: Buffer; tail: Buffer; size_bytes: number }

const V2_HEADER = 72
const V3_HEADER = 104
const DIRTY = 1n
const CORRUPT = 2n
const EXTERNAL_DATA = 4n
const COMPRESSION_TYPE = 8n
const EXTENDED_L2 = 16n
const EXTENSION_END = 0
const EXTENSION_EXTERNAL_DATA = 0x44415441
const EXTENSION_ENCRYPTION = 0x0537be77
const MAX_L1_BYTES = 32 << 20
const MAX_REFCOUNT_TABLE_BYTES = 8 << 20
const MAX_SNAPSHOTS = 65536

/** The size of the disk in the file. Throws ImportError unless the header is valid and names no other file. */
export function inspectQcow2(sample: Sample, maxVirtualSizeBytes: number): number {
  const { head } = sample
  if (head.length < V2_HEADER) throw damaged('its header is truncated')
  const version = head.readUInt32BE(4)
  if (version !== 2 && version !== 3)
    throw unsupported(`The image has qcow version ${version}; only versions 2 and 3 are supported.`)
  if (version === 3 && head.length < V3_HEADER) throw damaged('its header is truncated')

  if (head.readBigUInt64BE(8) !== 0n) throw unsafe('it has a backing file')
  if (head.readUInt32BE(32) !== 0) throw unsafe('it is encrypted')
  const features = version === 3 ? head.readBigUInt64BE(72) : 0n
  checkFeatures(features)

  const clusterBits = head.readUInt32BE(20)
  if (clusterBits < 9 || clusterBits > 21) throw damaged('its cluster size is invalid')
  const cluster = 2 ** clusterBits
  const headerLength = version === 3 ? checkV3(head, features, cluster) : V2_HEADER
  checkExtensions(head, headerLength, Math.min(cluster, sample.size_bytes))

  const virtualSize = Number(head.readBigUInt64BE(24)) // rounded only far above the limit
  checkDiskSize(virtualSize, maxVirtualSizeBytes)
  if (virtualSize === 0 || virtualSize % 512 !== 0) throw damaged('its disk size is invalid')
  checkTables(sample, cluster, virtualSize, (features & EXTENDED_L2) === 0n ? 8 : 16)
  return virtualSize
}

function checkFeatures(features: bigint): void {
  if ((features & EXTERNAL_DATA) !== 0n) throw unsafe('it has an external data file')
  if ((features & ~(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2)) !== 0n) {
    throw unsafe('it uses unsupported features')
  }
  if ((features & CORRUPT) !== 0n) throw damaged('it is marked as corrupt')
  if ((features & DIRTY) !== 0n) throw damaged('it was not closed cleanly; repair it with qemu-img check -r all')
}

/** Validates the fields of version 3 and returns the length of the header. */
function checkV3(head: Buffer, features: bigint, cluster: number): number {
  const length = head.readUInt32BE(100)
  if (length < V3_HEADER || length % 8 !== 0 || length > cluster || length > head.length) {
    throw damaged('its header length is invalid')
  }
  if (head.readUInt32BE(96) > 6) throw damaged('its refcount width is invalid')
  const compression = length > V3_HEADER ? head.readUInt8(104) : 0
  const expected = (features & COMPRESSION_TYPE) === 0n ? 0 : 1 // 0 deflate, 1 zstd
  if (compression !== expected) throw unsafe('it uses an unsupported compression type')
  if ((features & EXTENDED_L2) !== 0n && cluster < 2 ** 14) throw damaged('its cluster size is invalid')
  return length
}

/** Validates the extensions, between the header and the end of the first cluster, each padded to 8 bytes. */
function checkExtensions(head: Buffer, start: number, end: number): void {
  for (let at = start; at < end; ) {
    if (at + 8 > end || at + 8 > head.length) throw damaged('its header extensions are truncated')
    const type = head.readUInt32BE(at)
    const length = head.readUInt32BE(at + 4)
    if (type === EXTENSION_END) return
    if (type === EXTENSION_EXTERNAL_DATA) throw unsafe('it has an external data file')
    if (type === EXTENSION_ENCRYPTION) throw unsafe('it is encrypted')
    at += 8 + Math.ceil(length / 8) * 8
    if (at > end) throw damaged('its header extensions are truncated')
  }
}

function checkTables({ head, size_bytes }: Sample, cluster: number, virtualSize: number, entryBytes: number): void {
  const table = (offset: bigint, bytes: number, most: number, what: string) => {
    const at = Number(offset) // rounded only far above the size of any file
    if (at === 0 || at % cluster !== 0 || bytes > most || at + bytes > size_bytes) {
      throw damaged(`its ${what} is outside of the file, which may be truncated`)
    }
  }
  const l1Entries = head.readUInt32BE(36)
  const bytesPerL1Entry = cluster * (cluster / entryBytes)
  if (l1Entries < Math.ceil(virtualSize / bytesPerL1Entry)) throw damaged('its L1 table is too small for its disk')
  table(head.readBigUInt64BE(40), l1Entries * 8, MAX_L1_BYTES, 'L1 table')
  const refcountClusters = head.readUInt32BE(56)
  if (refcountClusters === 0) throw damaged('it has no refcount table')
  table(head.readBigUInt64BE(48), refcountClusters * cluster, MAX_REFCOUNT_TABLE_BYTES, 'refcount table')
  const snapshots = head.readUInt32BE(60)
  if (snapshots > 0) table(head.readBigUInt64BE(64), snapshots, MAX_SNAPSHOTS, 'snapshot table')
}

/** Throws ImportError if the disk in an image exceeds the limit. */
export function checkDiskSize(bytes: number, maxBytes: number): void {
  if (bytes <= maxBytes) return
  const message = `The disk in the image has ${size(bytes)} and exceeds the limit of ${size(maxBytes)}.`
  throw new ImportError('image_too_large', message)
}

const damaged = (what: string) => unsupported(`The image is a damaged qcow2 file: ${what}.`)
const unsupported = (message: string) => new ImportError('image_format_unsupported', message)
const unsafe = (what: string) =>
  new ImportError(
    'image_unsafe',
    `The image is rejected because ${what}. Convert it to a self-contained disk first: qemu-img convert -O qcow2 OLD NEW.`,
  )
