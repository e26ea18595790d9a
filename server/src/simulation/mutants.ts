/** Mutants that the simulation must detect. They change statements and driver calls, not the product. */
import type { Compiled } from '../db/sql.ts'
import type { Driver, ObservedMachine } from '../drivers/driver.ts'
import type { Tampering } from './faulty-sql.ts'

/** A fault of the control plane. */
export type Mutant = Tampering & {
  /** The driver that is used instead. */
  driver?(driver: Driver): Driver
}

const STALE_MS = 10_000
/** The machines that the driver of `double_start` has cached. */
const cached = new Map<string, { at: Date; machine: ObservedMachine | null }>()

/** By the name that `--mutant` takes. */
export const MUTANTS = {
  /** `finish` does not compare the wakes since the claim. */
  lost_wake: {
    rewrite: ({ text, values }) => ({
      text: text.startsWith('delete from work')
        ? text.replace(/wakes = (\$\d+)/, '$1::bigint is not null')
        : text.replace(
            /(update work w set leased_by = null.*attempts = 0.*)w\.wakes = (\$\d+)/s,
            '$1$2::bigint is not null',
          ),
      values,
    }),
  },
  /** A driver that returns a stale machine once: `start` makes a second process. */
  double_start: {
    driver: (driver) => ({
      ...driver,
      async get(ref) {
        const hit = cached.get(ref.id)
        const age_ms = hit ? ref.now.getTime() - hit.at.getTime() : -1
        cached.delete(ref.id)
        if (hit && age_ms >= 0 && age_ms < STALE_MS) return hit.machine
        const machine = await driver.get(ref)
        cached.set(ref.id, { at: ref.now, machine })
        return machine
      },
      async start(spec, now) {
        const isCachedAsOn = cached.get(spec.id)?.machine?.power === 'running'
        if (!isCachedAsOn) await driver.kill({ id: spec.id, environment_id: spec.environment_id, now })
        await driver.start(spec, now)
      },
    }),
  },
  /** A pass records its observations although another worker has taken over the key. */
  no_fence: {
    rewrite: ({ text, values }) => ({
      text: text.replace(/(\$\d+), \$\d+, \$\d+::bigint\)/, (call, kind) =>
        text.includes('flush_work(') ? call.replace(kind, `case when ${kind}::text is null then null end`) : call,
      ),
      values,
    }),
  },
  /** Stops emit no event. */
  missing_event: { rewrite: (compiled) => withoutEvents(compiled, 'instance.stopped') },
  /** The first boot emits the event of a start. */
  wrong_event: { rewrite: (compiled) => withOtherType(compiled, 'instance.ready', 'instance.started') },
  /** A failed delivery counts as successful. */
  lost_delivery: {
    rewrite: ({ text, values }) => ({
      text: text.includes('update webhook_deliveries d') ? text.replaceAll('o.status', `'succeeded'`) : text,
      values,
    }),
  },
  /** Events are written after the commit of their change. */
  late_event: { lastIsOutside: true },
} as const satisfies Record<string, Mutant>

export type MutantName = keyof typeof MUTANTS

/** The last statement of a transaction without the events of a type. */
function withoutEvents(compiled: Compiled, type: string): Compiled {
  const types = compiled.values.find((value): value is string[] => Array.isArray(value) && value.includes(type))
  if (!types || !compiled.text.includes('insert into events')) return compiled
  const kept = types.map((each) => each !== type)
  const counts = [...compiled.text.matchAll(/sequence [+-] \$(\d+)::bigint/g)].map((found) => Number(found[1]) - 1)
  const values = compiled.values.map((value, index) => {
    if (counts.includes(index)) return kept.filter(Boolean).length
    return Array.isArray(value) && value.length === types.length ? value.filter((_, i) => kept[i]) : value
  })
  return { text: compiled.text, values }
}

/** The statement that writes events, with another type for each event of this one. */
function withOtherType({ text, values }: Compiled, type: string, other: string): Compiled {
  if (!text.includes('insert into events')) return { text, values }
  const replaced = values.map((value) =>
    Array.isArray(value) ? value.map((each: unknown) => (each === type ? other : each)) : value,
  )
  return { text, values: replaced }
}
