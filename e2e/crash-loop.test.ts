import { randomInt } from 'node:crypto'
import { test } from 'node:test'
import { crashLoop } from './crash-loop.ts'

const seed = Number(process.env.SEED ?? randomInt(2 ** 31))

test(
  'kill -9 of control plane, PostgreSQL and QEMU under load: everything converges, each change has its event',
  { timeout: 900_000 },
  () => crashLoop({ seed, guests: 3, control_plane_kills: 4, postgres_kills: 2, qemu_kills: 2 }),
)

test('the same while the host lacks descriptors, connections, disk space or a PostgreSQL that responds', {
  timeout: 900_000,
}, () => {
  const lacks = ['descriptors', 'a PostgreSQL that responds', 'connections'] as const
  // Only root can mount a small file system; without it this one is left out.
  const isRoot = process.getuid?.() === 0
  return crashLoop({
    ...{ seed, guests: 3, control_plane_kills: 1, postgres_kills: 1, qemu_kills: 1 },
    lacks: [...lacks, ...(isRoot ? (['disk space'] as const) : [])],
  })
})
