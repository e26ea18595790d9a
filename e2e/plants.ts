/** Bugs to be planted in a running control plane: in a module below server/src, what stands there and what instead. */
type Plant = { module: string; pieces: [right: string, wrong: string][] }

export const PLANTS = {
  /** `finish` does not look whether the key was woken since its claim: wakes only rise. */
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
        'const child = await spawnDetached(confine(command, confinement), paths.log)\n',
        'const child = await spawnDetached(confine(command, confinement), paths.log)\n' +
          '  await spawnDetached(confine(command, confinement), paths.log)\n',
      ],
    ],
  },
  /** A change of the description is told by no event. */
  lost_event: {
    module: 'instances/status.ts',
    pieces: [["events.push('instance.updated')", "void 'instance.updated'"]],
  },
} as const satisfies Record<string, Plant>

export type PlantName = keyof typeof PLANTS

/** What Node is told for it. */
export function plantArguments(name: PlantName): string[] {
  const hook = new URL('planted-bug.ts', import.meta.url)
  hook.searchParams.set('plant', name)
  return ['--import', hook.href]
}
