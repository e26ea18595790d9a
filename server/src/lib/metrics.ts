/**
 * Counters and histograms in memory, and their Prometheus text (exposition format 0.0.4).
 *
 * Every request updates metrics, so this is not a client library: those hash the labels at each update, and here a
 * caller keeps its series. Label values are fixed sets (routes, methods, kinds), never an ID, a name or other data of a
 * tenant; the number of series is limited nevertheless.
 * https://prometheus.io/docs/instrumenting/exposition_formats/
 */

/** A number that only increases. */
export type Counter = { add(amount?: number): void }
export type Histogram = { observe(value: number): void }
export type Sample = { labels?: Record<string, string>; value: number }

export type Metrics = {
  /** The counter with these labels; callers keep it. */
  counter(name: string, help: string, labels?: Record<string, string>): Counter
  /** A histogram of seconds, with buckets from one millisecond to one minute. */
  histogram(name: string, help: string, labels?: Record<string, string>): Histogram
  /** Registers numbers that are read at each scrape. A collector that fails is omitted from that scrape. */
  collect(name: string, type: 'gauge' | 'counter', help: string, read: () => Sample[] | Promise<Sample[]>): void
  /** The response to a scrape. */
  render(): Promise<string>
}

export const MEDIA_TYPE = 'text/plain; version=0.0.4; charset=utf-8'
/** Upper bounds in seconds. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
/** Maximum number of series per name; further label values share one series without labels. */
const MAX_SERIES = 2_000

type Family = { type: string; help: string; series: Map<string, { lines(name: string): string[] }> }

export function createMetrics(): Metrics {
  const families = new Map<string, Family>()
  const collectors: { name: string; type: string; help: string; read: () => Sample[] | Promise<Sample[]> }[] = []

  function series<T extends { lines(name: string): string[] }>(
    [name, type, help]: [string, string, string],
    labels: Record<string, string>,
    make: (labels: string) => T,
  ): T {
    const family = families.get(name) ?? { type, help, series: new Map() }
    families.set(name, family)
    const given = labelText(labels)
    const text = family.series.has(given) || family.series.size < MAX_SERIES ? given : ''
    const found = (family.series.get(text) as T | undefined) ?? make(text)
    family.series.set(text, found)
    return found
  }

  return {
    counter: (name, help, labels = {}) => series([name, 'counter', help], labels, counterOf),
    histogram: (name, help, labels = {}) => series([name, 'histogram', help], labels, histogramOf),
    collect: (name, type, help, read) => collectors.push({ name, type, help, read }),
    async render() {
      const parts = [...families].map(([name, { type, help, series }]) => [
        ...head(name, type, help),
        ...[...series.values()].flatMap((each) => each.lines(name)),
      ])
      const collected = collectors.map(async ({ name, type, help, read }) => {
        const samples = await Promise.resolve()
          .then(read)
          .catch(() => [])
        return [
          ...head(name, type, help),
          ...samples.map(({ labels, value }) => line(name, labelText(labels ?? {}), value)),
        ]
      })
      return `${[...parts, ...(await Promise.all(collected))].flat().join('\n')}\n`
    },
  }
}

function counterOf(labels: string) {
  let value = 0
  return {
    add(amount = 1) {
      value += amount
    },
    lines: (name: string) => [line(name, labels, value)],
  }
}

function histogramOf(labels: string) {
  const counts = new Array<number>(BUCKETS.length + 1).fill(0)
  let sum = 0
  return {
    observe(value: number) {
      let i = 0
      while (i < BUCKETS.length && value > BUCKETS[i]!) i++
      counts[i]!++
      sum += value
    },
    lines(name: string) {
      const bound = (le: string) => (labels === '' ? `le="${le}"` : `${labels},le="${le}"`)
      let total = 0
      const buckets = [...BUCKETS.map(String), '+Inf'].map((le, i) => {
        total += counts[i]!
        return line(`${name}_bucket`, bound(le), total)
      })
      return [...buckets, line(`${name}_sum`, labels, sum), line(`${name}_count`, labels, total)]
    },
  }
}

const head = (name: string, type: string, help: string) => [
  `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}`,
  `# TYPE ${name} ${type}`,
]

const line = (name: string, labels: string, value: number): string =>
  `${name}${labels === '' ? '' : `{${labels}}`} ${value}`

function labelText(labels: Record<string, string>): string {
  const quoted = (text: string) => text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
  return Object.entries(labels)
    .map(([name, value]) => `${name}="${quoted(value)}"`)
    .join(',')
}
