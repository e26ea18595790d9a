/**
 * Compares two servers on a machine whose speed changes from second to second: slices of a fraction of a second alternate
 * between the two, and every second pair begins with the other one. Slow changes affect both slices of a pair alike, so
 * they cancel in its ratio. The spread of the ratios says how far their median can be trusted.
 */
import { Pool } from 'undici'
import { median } from './statistics.ts'

const CONNECTIONS = 8
const SLICE_MS = 200
const RESAMPLES = 2_000

export type Request = { path: string; key: string; body?: string }
export type Comparison = { ratio: number; low: number; high: number; pairs: number; rates: [number, number] }

/** A server under comparison: `rest` runs after each slice, for example until background work has ended. */
export type Target = { origin: string; request: Request; rest?: () => Promise<void> }

/** The ratio of the requests per second of the first target to those of the second, with a 95 % interval. */
export async function comparePairs(targets: [Target, Target], pairs: number): Promise<Comparison> {
  const pools = targets.map(({ origin }) => new Pool(origin, { connections: CONNECTIONS, pipelining: 1 }))
  const rates: [number[], number[]] = [[], []]
  try {
    for (let pair = -1; pair < pairs; pair++) {
      for (const side of pair % 2 === 0 ? ([0, 1] as const) : ([1, 0] as const)) {
        const rate = await slice(pools[side]!, targets[side].request)
        await targets[side].rest?.()
        // The first pair opens the connections.
        if (pair >= 0) rates[side].push(rate)
      }
    }
  } finally {
    await Promise.all(pools.map((pool) => pool.close()))
  }
  const ratios = rates[0].map((rate, i) => rate / rates[1][i]!)
  const [low, high] = interval(ratios)
  return { ratio: median(ratios), low, high, pairs, rates: [median(rates[0]), median(rates[1])] }
}

/** Requests per second of one slice. Throws if a request fails. */
async function slice(pool: Pool, { path, key, body }: Request): Promise<number> {
  const headers = { authorization: `Bearer ${key}`, ...(body && { 'content-type': 'application/json' }) }
  const begin = performance.now()
  let count = 0
  const client = async () => {
    while (performance.now() - begin < SLICE_MS) {
      const response = await pool.request({ method: body ? 'POST' : 'GET', path, headers, ...(body && { body }) })
      await response.body.dump()
      if (response.statusCode >= 300) throw new Error(`${path}: status ${response.statusCode}`)
      count++
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, client))
  return count / ((performance.now() - begin) / 1000)
}

/** Between which values 95 % of the medians of resampled ratios are (bootstrap). */
function interval(ratios: number[]): [number, number] {
  const medians = Array.from({ length: RESAMPLES }, () =>
    median(ratios.map(() => ratios[Math.floor(Math.random() * ratios.length)]!)),
  ).sort((a, b) => a - b)
  return [medians[Math.floor(RESAMPLES * 0.025)]!, medians[Math.floor(RESAMPLES * 0.975)]!]
}
