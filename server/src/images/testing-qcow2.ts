const CLUSTER = 65_536

/**
 * A qcow2 disk of this many clusters that all refer to the same data: six clusters of file, whatever the size of the disk.
 * `qemu-img check` finds no fault in it. At most 8,192 clusters (one table of level 2).
 */
export function sharedClusters(clusters: number): Buffer {
  const file = Buffer.alloc(6 * CLUSTER)
  const [refcountTable, refcounts, level1, level2, data] = [1, 2, 3, 4, 5].map((number) => number * CLUSTER) as number[]
  file.write('QFI\xfb', 0, 'latin1')
  file.writeUInt32BE(3, 4) // version
  file.writeUInt32BE(16, 20) // cluster_bits
  file.writeBigUInt64BE(BigInt(clusters * CLUSTER), 24) // size of the disk
  file.writeUInt32BE(1, 36) // entries of level 1
  file.writeBigUInt64BE(BigInt(level1!), 40)
  file.writeBigUInt64BE(BigInt(refcountTable!), 48)
  file.writeUInt32BE(1, 56) // clusters of the refcount table
  file.writeUInt32BE(4, 96) // refcount_order: 16 bits
  file.writeUInt32BE(104, 100) // length of the header
  file.writeBigUInt64BE(BigInt(refcounts!), refcountTable!)
  for (let number = 0; number < 5; number++) file.writeUInt16BE(1, refcounts! + 2 * number)
  file.writeUInt16BE(clusters, refcounts! + 2 * 5)
  const COPIED = 1n << 63n
  file.writeBigUInt64BE(COPIED | BigInt(level2!), level1!)
  const copied = clusters === 1 ? COPIED : 0n
  for (let number = 0; number < clusters; number++) file.writeBigUInt64BE(copied | BigInt(data!), level2! + 8 * number)
  file.fill(0xab, data!)
  return file
}
