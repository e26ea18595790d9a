import { randomInt } from 'node:crypto'
import { test } from 'node:test'
import { crashLoop } from './crash-loop.ts'

const seed = Number(process.env.SEED ?? randomInt(2 ** 31))

test(
  'kill -9 of control plane, PostgreSQL and QEMU under load: everything converges, each change has its event',
  { timeout: 900_000 },
  () => crashLoop({ seed, guests: 3, control_plane_kills: 5, postgres_kills: 2, qemu_kills: 3 }),
)
