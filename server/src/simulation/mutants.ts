/** Bugs that are planted to see whether the simulation finds them; nothing of the product is edited for it. */
import type { Compiled } from '../db/sql.ts'
import type { Driver, ObservedMachine } from '../drivers/driver.ts'
import type { Tampering } from './faulty-sql.ts'

/** A function of the control plane that does not do what it should. */
export type Mutant = Tampering & {
  /** The driver that is used instead. */
  driver?(driver: Driver): Driver
}

const LATELY_MS = 10_000
/** What the driver of `double_start` has seen. */
const seen = new Map<string, { at: Date; machine: ObservedMachine | null }>()

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
  /** A driver that believes, once more, what it saw lately: `start` makes a process beside one that it has just made. */
  double_start: {
    driver: (driver) => ({
      ...driver,
      async get(ref) {
        const known = seen.get(ref.id)
        const age_ms = known ? ref.now.getTime() - known.at.getTime() : -1
        seen.delete(ref.id)
        if (known && age_ms >= 0 && age_ms < LATELY_MS) return known.machine
        const machine = await driver.get(ref)
        seen.set(ref.id, { at: ref.now, machine })
        return machine
      },
      async start(spec, now) {
        const isKnownOn = seen.get(spec.id)?.machine?.power === 'running'
        if (!isKnownOn) await driver.kill({ id: spec.id, environment_id: spec.environment_id, now })
        await driver.start(spec, now)
      },
    }),
  },
  /** What a step saw is recorded although another worker has taken the key over. */
  no_fence: {
    rewrite: ({ text, values }) => ({
      text: text.replace(/(\$\d+), \$\d+, \$\d+::bigint\)/, (call, kind) =>
        text.includes('flush_work(') ? call.replace(kind, `case when ${kind}::text is null then null end`) : call,
      ),
      values,
    }),
  },
  /** Some events are forgotten. */
  forgotten_event: { rewrite: (compiled) => withoutEvents(compiled, 'instance.stopped') },
  /** The first boot emits the event of a start. */
  wrong_event: { rewrite: (compiled) => withOtherType(compiled, 'instance.ready', 'instance.started') },
  /** What failed once is held for sent. */
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

/** The statement that closes a head, without the events of a type: as if they had not been gathered. */
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
