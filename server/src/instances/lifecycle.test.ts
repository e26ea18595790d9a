/**
 * The pure half of an instance's life (wishes, observe, plan, status, events) walked through random histories against
 * a model of a machine. No database, no driver: thousands of lives a second.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { ObservedMachine } from '../drivers/driver.ts'
import { ApiError } from '../lib/errors.ts'
import { observed } from './observe.ts'
import { plan, remembered, type Step } from './plan.ts'
import { type InstanceRow, isLeaving, runOf, type Status } from './row.ts'
import { eventsOf, MOVES, statusOf } from './status.ts'
import { newRow } from './testing.ts'
import { changeSize, goAway, reboot, renew, start, stop, type Wish } from './wishes.ts'

const GIB = 2 ** 30
const PLANS = [1, 2, 4].map((n) => ({ id: `p${n}`, vcpus: n, memory_bytes: n * GIB, disk_bytes: n * 10 * GIB }))

/** One instance, its machine as a host would have it, and everything that was told about it. */
class Life {
  row: InstanceRow = newRow()
  machine: ObservedMachine | null = null
  image = { present: false, error: null as { code: string; message: string } | null }
  now = new Date('2030-01-01T00:00:00Z')
  events: string[] = []
  starts = 0

  constructor() {
    this.save({})
    this.events.push(...eventsOf(null, this.row))
  }

  save(changes: Partial<InstanceRow>): void {
    const before = this.row
    const changed = { ...before, ...changes }
    this.row = { ...changed, ...statusOf(changed) }
    const from = before.status
    const to = this.row.status
    assert.ok(from === to || MOVES[from].includes(to), `${from} → ${to} is not a move`)
    this.events.push(...eventsOf(before, this.row))
  }

  wish(make: () => Wish): void {
    if (this.row.terminated_at) return
    try {
      const wish = make()
      if (Object.keys(wish).length > 0) this.save({ ...wish, wanted_at: this.now })
    } catch (error) {
      assert.ok(error instanceof ApiError, String(error))
    }
  }

  /** One look of the reconciler; the process may be killed after the record, before the step. */
  look(dies: 'no' | 'before the step' = 'no'): Step {
    const seen = { ...this.row, ...observed(this.row, this.machine, this.now) }
    const step = plan(seen, this.machine, this.image, this.now)
    const gone = step.do === 'finalise' ? { terminated_at: this.now } : {}
    this.save({ ...seen, ...remembered(seen, step), ...gone })
    if (dies !== 'before the step') this.act(step)
    return step
  }

  act(step: Step): void {
    const m = this.machine
    const row = this.row
    if (step.do === 'require_image') this.image = { present: true, error: null }
    if (step.do === 'create') {
      assert.equal(m, null)
      this.machine = newMachine(row)
    }
    if (step.do === 'start') {
      assert.ok(m && m.run < runOf(row), 'a run is started once')
      assert.ok(m && m.power !== 'running' && m.power !== 'paused', 'never a second process on one disk')
      assert.ok(!isLeaving(row) && row.wanted_power === 'running', 'nobody starts what is not wanted')
      this.starts++
      this.machine = { ...newMachine(row), power: 'running', run: runOf(row), started_at: this.now }
    }
    if (step.do === 'kill' && m) this.machine = { ...m, power: 'stopped', ready: false }
    if (step.do === 'resize_disk' && m) this.machine = { ...m, disk_bytes: row.wanted_disk_bytes }
    if (step.do === 'set_public_address' && m) this.machine = { ...m, public_ip: row.wanted_public_ip, ports: [] }
    if (step.do === 'delete') this.machine = null
  }

  /** The world goes on without us. */
  world(event: 'ready' | 'off' | 'crash' | 'panic'): void {
    const m = this.machine
    if (m?.power !== 'running') return
    if (event === 'ready') this.machine = { ...m, ready: true }
    if (event === 'off') this.machine = { ...m, power: 'off', ready: false }
    if (event === 'crash') this.machine = { ...m, power: 'crashed', ready: false }
    if (event === 'panic') this.machine = { ...m, power: 'paused', trouble: 'panic', ready: false }
  }

  /** A kind world: guests do as they are asked, time passes, and the reconciler looks until it rests. */
  settle(): void {
    for (let i = 0; i < 60; i++) {
      const step = this.look()
      if (step.do === 'power_down') this.world('off')
      if (this.machine?.power === 'running' && this.machine.run === runOf(this.row)) this.world('ready')
      this.now = new Date(this.now.getTime() + 30_000)
    }
  }
}

function newMachine(row: InstanceRow): ObservedMachine {
  return {
    id: row.id,
    power: 'stopped',
    disk: row.wanted_disk,
    run: 0,
    ready: false,
    started_at: null,
    vcpus: row.wanted_vcpus,
    memory_bytes: row.wanted_memory_bytes,
    disk_bytes: row.wanted_disk_bytes,
    public_ip: row.wanted_public_ip,
    ports: [],
    trouble: null,
  }
}

type Move = (life: Life) => void
const wish = (make: (row: InstanceRow) => Wish): Move => {
  return (life) => life.wish(() => make(life.row))
}
const moves: [string, Move][] = [
  ['look', (l) => void l.look()],
  ['look and die', (l) => void l.look('before the step')],
  ['ready', (l) => l.world('ready')],
  ['off', (l) => l.world('off')],
  ['crash', (l) => l.world('crash')],
  ['panic', (l) => l.world('panic')],
  ['second', (l) => void (l.now = new Date(l.now.getTime() + 1_000))],
  ['minute', (l) => void (l.now = new Date(l.now.getTime() + 61_000))],
  ['long', (l) => void (l.now = new Date(l.now.getTime() + 301_000))],
  ['image breaks', (l) => void (l.image = { present: false, error: { code: 'image_x', message: 'x' } })],
  ['image comes', (l) => void (l.image = { present: true, error: null })],
  ['start', wish(start)],
  ['stop', wish((row) => stop(row, 60))],
  ['force stop', wish((row) => stop(row, 0))],
  ['reboot', wish((row) => reboot(row, 60))],
  ['rebuild', wish(renew)],
  ...PLANS.map((p): [string, Move] => [
    `resize ${p.id}`,
    wish((row) => (row.wanted_plan === p.id ? {} : changeSize(row, p, { allow_reboot: true, stops: false }))),
  ]),
  ['no recovery', wish(() => ({ auto_recovery: false }))],
  ['terminate', wish(goAway)],
  [
    'to expire',
    (l) => void (l.row = { ...l.row, expires_at: l.row.expires_at ?? new Date(l.now.getTime() + 200_000) }),
  ],
]
const history = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: fc.constant(moves[0]!) },
    { weight: 2, arbitrary: fc.constant(moves[2]!) },
    { weight: 8, arbitrary: fc.constantFrom(...moves) },
  ),
  { maxLength: 60 },
)
const run = (names: [string, Move][]) => {
  const life = new Life()
  for (const [, move] of names) move(life)
  return life
}

describe('the life of an instance', () => {
  test('in every history only the allowed moves are made, and every start was wanted', () => {
    fc.assert(
      fc.property(history, (names) => void run(names)),
      { numRuns: 3000 },
    )
  })

  test('when the world is kind again, every wish is met', () => {
    fc.assert(
      fc.property(history, (names) => {
        const life = run(names)
        life.image = { present: true, error: null }
        life.settle()
        const { row, machine } = life
        const on = machine?.power === 'running'
        if (isLeaving(row)) assert.deepEqual([row.status, machine], ['terminated', null])
        else if (row.status === 'failed') assert.ok(row.observed_problem && row.status_reason)
        else if (row.status === 'stopped') assert.equal(on, false)
        else
          assert.deepEqual(
            [row.status, on, machine?.run, machine?.disk],
            ['running', true, runOf(row), row.wanted_disk],
          )
        if (row.wanted_power === 'stopped' && !isLeaving(row)) assert.equal(row.status, 'stopped')
      }),
      { numRuns: 3000 },
    )
  })

  test('at rest nothing more is done', () => {
    fc.assert(
      fc.property(history, (names) => {
        const life = run(names)
        life.image = { present: true, error: null }
        life.settle()
        const { starts, events } = life
        const told = events.length
        life.settle()
        assert.deepEqual([life.starts, life.events.length], [starts, told])
      }),
      { numRuns: 500 },
    )
  })

  test('ready is told once per disk, terminated once, and nothing after it', () => {
    fc.assert(
      fc.property(history, (names) => {
        const life = run([...names, ['terminate', wish((row) => (row.wanted_gone ? {} : { wanted_gone: true }))]])
        life.settle()
        const count = (type: string) => life.events.filter((e) => e === type).length
        assert.ok(count('instance.ready') <= life.row.wanted_disk)
        assert.equal(count('instance.terminated'), 1)
        assert.equal(life.events.at(-1), 'instance.terminated')
      }),
      { numRuns: 1000 },
    )
  })

  test('a failing guest is started a bounded number of times', () => {
    const life = run([])
    life.settle()
    assert.equal(life.row.status, 'running')
    for (let i = 0; i < 100; i++) {
      life.world('crash')
      life.look()
      life.now = new Date(life.now.getTime() + 100_000)
    }
    assert.deepEqual([life.row.status, life.row.status_reason?.code, life.starts], ['failed', 'crash_loop', 6])
  })

  test('what a late step has started after the stop is ended again', () => {
    const life = run([])
    life.image = { present: true, error: null }
    for (let step = life.look(); step.do !== 'create'; ) step = life.look()
    life.wish(() => stop(life.row, 60))
    life.look()
    assert.equal(life.row.status, 'stopped')
    life.machine = { ...newMachine(life.row), power: 'running', run: 1, started_at: life.now }
    life.look()
    assert.equal(life.row.status, 'stopping')
    life.settle()
    assert.deepEqual([life.row.status, life.machine?.power], ['stopped', 'off'])
  })

  test('every status can be left, and only towards known ones', () => {
    const all = Object.keys(MOVES) as Status[]
    for (const from of all) for (const to of MOVES[from]) assert.ok(all.includes(to))
    for (const from of all)
      if (from !== 'terminated' && from !== 'terminating') assert.ok(MOVES[from].includes('terminating'))
  })
})
