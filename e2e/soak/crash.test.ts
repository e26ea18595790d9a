import { randomInt } from 'node:crypto'
import { test } from 'node:test'
import { crashScenario } from '../crash-scenario.ts'

const seed = Number(process.env.SEED ?? randomInt(2 ** 31))

test('20 kills of the control plane and 5 of PostgreSQL with 12 guests', { timeout: 3_600_000 }, () =>
  crashScenario({ seed, guests: 12, control_plane_kills: 20, postgres_kills: 5 }),
)
