import { randomInt } from 'node:crypto'
import { test } from 'node:test'
import { crashScenario } from './crash-scenario.ts'

const seed = Number(process.env.SEED ?? randomInt(2 ** 31))

test(
  'kill -9 of control plane and PostgreSQL under load: everything converges, nothing leaks',
  { timeout: 480_000 },
  () => crashScenario({ seed, guests: 6, control_plane_kills: 3, postgres_kills: 1 }),
)
