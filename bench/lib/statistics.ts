/** The middle value; of an even number the mean of the two. */
export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** `median (min–max, n)` with a unit. */
export function summary(values: number[], unit: string, digits = 0): string {
  const show = (value: number) => value.toFixed(digits)
  return `${show(median(values))} ${unit} (${show(Math.min(...values))}–${show(Math.max(...values))}, n=${values.length})`
}
