import { randomInt } from 'node:crypto'
import { test } from 'node:test'
import { crashLoop } from '../crash-loop.ts'

const seed = Number(process.env.SEED ?? randomInt(2 ** 31))

test('200 kills of control plane, PostgreSQL and QEMU with 8 guests', { timeout: 5_400_000 }, () =>
  crashLoop({ seed, guests: 8, control_plane_kills: 90, postgres_kills: 40, qemu_kills: 70 }),
)
