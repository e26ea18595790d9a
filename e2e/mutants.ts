/** Mutants of a running control plane: in a module below server/src, the right source and the wrong one. */
type Mutant = { module: string; pieces: [right: string, wrong: string][] }

export const MUTANTS = {
  /** `finish` does not compare the wakes of the key with those of its claim: wakes only rise. */
  lost_wake: {
    module: 'engine/work.ts',
    pieces: [
      ['due_at = case when w.wakes = ', 'due_at = case when w.wakes >= '],
      [' and wakes = ', ' and wakes >= '],
    ],
  },
  /** Each start makes two processes; the second ends by itself where QEMU locks its disk. */
  double_start: {
    module: 'drivers/qemu/start.ts',
    pieces: [
      [
        'const child = await spawnDetached(confine(command, confinement), messages.fd)\n',
        'const child = await spawnDetached(confine(command, confinement), messages.fd)\n' +
          '  await spawnDetached(confine(command, confinement), messages.fd)\n',
      ],
    ],
  },
  /** A change of the description emits no event. */
  lost_event: {
    module: 'instances/status.ts',
    pieces: [["events.push('instance.updated')", "void 'instance.updated'"]],
  },
  /** While the database is away, requests fail with 500 instead of 503. */
  internal_error: {
    module: 'http/problem.ts',
    pieces: [['if (isDatabaseUnavailable(error)) {', 'if (isDatabaseUnavailable(error) && false) {']],
  },
} as const satisfies Record<string, Mutant>

export type MutantName = keyof typeof MUTANTS

/** The arguments of Node that load it. */
export function mutantArguments(name: MutantName): string[] {
  const hook = new URL('load-mutant.ts', import.meta.url)
  hook.searchParams.set('mutant', name)
  return ['--import', hook.href]
}
