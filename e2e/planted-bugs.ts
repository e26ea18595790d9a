/**
 * Builds that are broken on purpose, for the crash loop to find: preloaded into a control plane, this replaces a piece of
 * one module as it is loaded. Nothing of the product is edited for it, and a piece that is not there any more ends the
 * process.
 */
import { registerHooks } from 'node:module'

type Plant = { module: string; piece: string; instead: string }

export const PLANTED_BUGS = {
  /** A key that was woken during its step is given back to rest. */
  lost_wake: {
    module: '/server/src/engine/work.ts',
    piece: 'case when w.wakes = $' + '{wakes} then $' + '{claimed.now}',
    instead: 'case when w.wakes >= $' + '{wakes} then $' + '{claimed.now}',
  },
  /** Each machine is started twice. */
  double_start: {
    module: '/server/src/drivers/qemu/start.ts',
    piece: 'const child = await spawnDetached(confine(command, confinement), paths.log)',
    instead: `const child = await spawnDetached(confine(command, confinement), paths.log)
      await spawnDetached(confine(command, confinement), paths.log)`,
  },
  /** Changes of one kind have no event. */
  lost_event: {
    module: '/server/src/instances/store.ts',
    piece: 'const types = eventsOf(before, after)',
    instead: "const types = eventsOf(before, after).filter((type) => type !== 'instance.updated')",
  },
} as const satisfies Record<string, Plant>

export type PlantedBug = keyof typeof PLANTED_BUGS

/** The variable that names the bug to be planted. */
export const PLANTED_BUG = 'PLANTED_BUG'

const named = process.env[PLANTED_BUG]
if (named) plant(PLANTED_BUGS[named as PlantedBug])

function plant({ module, piece, instead }: Plant): void {
  registerHooks({
    load(url, context, nextLoad) {
      const loaded = nextLoad(url, context)
      if (!url.endsWith(module)) return loaded
      const parts = String(loaded.source).split(piece)
      if (parts.length !== 2)
        throw new Error(`the bug cannot be planted: ${module} has its piece ${parts.length - 1} times`)
      return { ...loaded, source: parts.join(instead) }
    },
  })
}
