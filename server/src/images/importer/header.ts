/**
 * Determines the format of a disk image before any tool opens it. Pure; throws only ImportError.
 *
 * A qcow2 header can name other files of this host as backing or data file, and QEMU, if it detects the format itself,
 * treats every file with the qcow2 magic number as qcow2. Therefore only two formats are accepted, by their content and
 * not by their name: a file with the signature of another format is rejected, and a raw disk must be bootable.
 */
import { ImportError } from './errors.ts'
import { checkDiskSize, inspectQcow2, type Sample } from './qcow2.ts'

export type Inspection = { format: 'raw' | 'qcow2'; virtual_size_bytes: number }

/** The size of the largest qcow2 cluster, which contains the whole header. */
export const HEAD_BYTES = 2 << 20
export const TAIL_BYTES = 512

const SECTOR = 512

/** The format and size of a disk. Throws ImportError unless it is a raw or qcow2 disk that is safe to convert. */
export function inspectImage(sample: Sample, maxVirtualSizeBytes: number): Inspection {
  const { head } = sample
  const qcow2 = head.length >= 4 && head.readUInt32BE(0) === 0x514649fb
  const inspection: Inspection = qcow2
    ? { format: 'qcow2', virtual_size_bytes: inspectQcow2(sample, maxVirtualSizeBytes) }
    : { format: 'raw', virtual_size_bytes: inspectRaw(sample) }
  checkDiskSize(inspection.virtual_size_bytes, maxVirtualSizeBytes)
  return inspection
}

function inspectRaw({ head, tail, size_bytes }: Sample): number {
  const known = marks.find(({ at, mark }) => bytesAt(at === 'end' ? tail : head, at === 'end' ? 0 : at, mark))
  if (known !== undefined) throw unsupported(`The image is ${known.name}; only raw and qcow2 disks are supported.`)
  const mbr = head.length >= SECTOR && head.readUInt16BE(SECTOR - 2) === 0x55aa
  const gpt = [512, 4096].some((at) => bytesAt(head, at, 'EFI PART'))
  if (!mbr && !gpt) throw unsupported('The image is not a bootable disk: it has neither a boot sector nor a GPT.')
  if (size_bytes % SECTOR !== 0) {
    throw unsupported(
      `The image is not a complete disk: its size is not a multiple of ${SECTOR} bytes. It may be truncated.`,
    )
  }
  return size_bytes
}

const bytesAt = (bytes: Buffer, at: number, mark: string) =>
  bytes.subarray(at, at + mark.length).equals(Buffer.from(mark, 'latin1'))

const unsupported = (message: string) => new ImportError('image_format_unsupported', message)

/** Signatures of rejected formats. That of a fixed-size VHD is in its last sector. */
const marks: { at: number | 'end'; mark: string; name: string }[] = [
  { at: 0, mark: 'KDMV', name: 'a VMDK' },
  { at: 0, mark: 'COWD', name: 'a VMDK' },
  { at: 0, mark: '# Disk DescriptorFile', name: 'a VMDK' },
  { at: 0, mark: 'conectix', name: 'a VHD' },
  { at: 'end', mark: 'conectix', name: 'a VHD' },
  { at: 0, mark: 'vhdxfile', name: 'a VHDX' },
  { at: 64, mark: '\x7f\x10\xda\xbe', name: 'a VDI' },
  { at: 0, mark: 'QED\0', name: 'a QED' },
  { at: 0, mark: 'LUKS\xba\xbe', name: 'encrypted (LUKS)' },
  { at: 0, mark: 'WithoutFreeSpace', name: 'a Parallels disk' },
  { at: 0, mark: 'WithouFreSpacExt', name: 'a Parallels disk' },
  { at: 0, mark: 'Bochs Virtual HD Image', name: 'a Bochs disk' },
  { at: 'end', mark: 'koly', name: 'a DMG' },
  { at: 0, mark: '\x1f\x8b', name: 'compressed (gzip): unpack it first' },
  { at: 0, mark: '\xfd7zXZ\0', name: 'compressed (xz): unpack it first' },
  { at: 0, mark: '\x28\xb5\x2f\xfd', name: 'compressed (zstd): unpack it first' },
  { at: 0, mark: 'BZh', name: 'compressed (bzip2): unpack it first' },
  { at: 0, mark: 'PK\x03\x04', name: 'an archive (zip or OVA): unpack it first' },
  { at: 0, mark: "7z\xbc\xaf'\x1c", name: 'an archive (7z): unpack it first' },
  { at: 257, mark: 'ustar', name: 'an archive (tar or OVA): unpack it first' },
]
