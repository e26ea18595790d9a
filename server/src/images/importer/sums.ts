/** Lists of checksums in the format of sha256sum. Pure. */
import { ImportError } from './errors.ts'

/** The SHA-256 of a file in a list, in text (`  name`) or binary (` *name`) form. Throws ImportError unless it is unique. */
export function checksumOf(list: string, fileName: string, host: string): string {
  const sums = new Set<string>()
  for (const line of list.split(/\r?\n/)) {
    const [, sum, name] = /^([0-9a-fA-F]{64}) [ *](.+)$/.exec(line) ?? []
    if (sum !== undefined && name === fileName) sums.add(sum.toLowerCase())
  }
  const [sum] = sums
  if (sum === undefined) {
    const message = `The signed checksum list of ${host} does not contain ${fileName}. Check the file name, or use another mirror.`
    throw new ImportError('image_source_not_found', message)
  }
  if (sums.size > 1) {
    const message = `The signed checksum list of ${host} has two checksums for ${fileName}. Use another mirror.`
    throw new ImportError('image_checksum_mismatch', message)
  }
  return sum
}
