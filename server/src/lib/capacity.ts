/** What instances use of a host, and whether it has the capacity. Pure. */

export type Size = { vcpus: number; memory_bytes: number; disk_bytes: number }
export type Dimension = keyof Size

/** Memory of the process around a guest: firmware, devices, translated code. */
export const MACHINE_OVERHEAD_BYTES = 128 * 2 ** 20

/** What an instance of this size reserves. */
export function footprint({ vcpus, memory_bytes, disk_bytes }: Size): Size {
  return { vcpus, memory_bytes: memory_bytes + MACHINE_OVERHEAD_BYTES, disk_bytes }
}

/** The first of vCPUs, memory and disk that is exceeded when this much more is used; null: it fits. */
export function exceededDimension(total: Size, used: Size, needed: Size): Dimension | null {
  const dimensions: Dimension[] = ['vcpus', 'memory_bytes', 'disk_bytes']
  return dimensions.find((dimension) => used[dimension] + needed[dimension] > total[dimension]) ?? null
}

/** The sum of sizes. */
export function sumOf(sizes: readonly Size[]): Size {
  const sum = (dimension: Dimension) => sizes.reduce((total, size) => total + size[dimension], 0)
  return { vcpus: sum('vcpus'), memory_bytes: sum('memory_bytes'), disk_bytes: sum('disk_bytes') }
}

export const NOTHING: Size = { vcpus: 0, memory_bytes: 0, disk_bytes: 0 }

/** An amount in words: `16 vCPUs`, `8.1 GiB of memory`, `512 MiB of disk`. */
export function inWords(dimension: Dimension, amount: number): string {
  if (dimension === 'vcpus') return `${amount} vCPU${amount === 1 ? '' : 's'}`
  const [value, unit] = amount >= 2 ** 30 ? [amount / 2 ** 30, 'GiB'] : [amount / 2 ** 20, 'MiB']
  return `${Math.round(value * 10) / 10} ${unit} of ${dimension === 'disk_bytes' ? 'disk' : 'memory'}`
}
