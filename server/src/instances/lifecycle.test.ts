/**
 * The pure half of an instance's life (wishes, observe, plan, status, events) walked through random histories against
 * a model of a machine. No database, no driver: thousands of lives a second.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import type { ObservedMachine } from '../drivers/driver.ts'
import { ApiError } from '../lib/errors.ts'
import { columnsAfter, decide, type Step } from './decide.ts'
import { type DesiredChange, reboot, rebuild, resize, start, stop, terminate } from './desired.ts'
import { observed } from './observe.ts'
import { MAX_FAILURES, needsRecoverySlot, openRecovery, recoveryAfter, WINDOW_SECONDS } from './recovery.ts'
import { type InstanceRow, isTerminating, runOf, type Status } from './row.ts'
import { eventsOf, MOVES, sizeUnderWay, statusOf } from './status.ts'
import { newRow } from './testing.ts'

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
  /** Changes of size. */
  sizes = 0
  /** Whether a start after a reboot of the host may happen, and when machines were started again by themselves. */
  turn = true
  boot = 1
  recoveries: Date[] = []

  constructor() {
    this.save({})
    this.events.push(...eventsOf(null, this.row))
  }

  save(changes: Partial<InstanceRow>): void {
    const before = this.row
    const changed = { ...before, ...changes }
    this.row = { ...changed, ...statusOf(changed) }
    this.row.recovery = recoveryAfter(before, this.row, this.now)
    this.row.wanted_size_before = sizeUnderWay(this.row)
    this.checkRecovery(before)
    const from = before.status
    const to = this.row.status
    assert.ok(from === to || MOVES[from].includes(to), `${from} → ${to} is not a move`)
    this.events.push(...eventsOf(before, this.row))
    if (before.wanted_plan !== this.row.wanted_plan) this.sizes++
    const untold = this.row.wanted_size_before === null ? 0 : 1
    const told = this.events.filter((type) => type === 'instance.scaled').length
    assert.equal(told + untold, this.sizes, 'a change of size is told once, when it has come to its end')
  }

  /** The record follows the status, and a new wish begins a new count. */
  checkRecovery(before: InstanceRow): void {
    const { row } = this
    const open = openRecovery(row)
    if (row.status === 'recovering') assert.ok(open, 'a recovery that is seen has a record')
    if (['running', 'failed', 'stopping', 'stopped', 'terminating', 'terminated'].includes(row.status)) {
      assert.equal(open, null, `no recovery is under way while it is ${row.status}`)
    }
    const [last, next] = [before.recovery, row.recovery]
    if (last && next?.number === last.number && last.outcome !== null) assert.deepEqual(next, last)
    if (next && next.number !== last?.number) assert.equal(next.number, (last?.number ?? 0) + 1)
    if (next && last?.outcome === null) assert.equal(next.number, last.number, 'one ends before the next begins')
  }

  wish(make: () => DesiredChange): void {
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
    const turn = this.turn || !needsRecoverySlot(seen, this.machine)
    const step = decide(seen, this.machine, this.image, this.now, turn)
    const gone = step.do === 'finalise' ? { terminated_at: this.now } : {}
    this.save({ ...seen, ...columnsAfter(seen, step), ...gone })
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
      assert.ok(!isTerminating(row) && row.wanted_power === 'running', 'nobody starts what is not wanted')
      if (step.recovering) {
        assert.ok(row.auto_recovery, 'nobody who does not want it is started again')
        assert.ok(this.turn || !needsRecoverySlot(row, m), 'nobody is started before its turn')
        this.recoveries.push(this.now)
      }
      this.starts++
      this.machine = { ...newMachine(row), power: 'running', run: runOf(row), started_at: this.now }
    }
    if (step.do === 'kill' && m) this.machine = { ...m, power: 'stopped', ready: false }
    if (step.do === 'resume' && m?.trouble === 'disk_error') this.machine = { ...m, power: 'running', trouble: null }
    if (step.do === 'resize_disk' && m) this.machine = { ...m, disk_bytes: row.wanted_disk_bytes }
    if (step.do === 'set_public_address' && m) this.machine = { ...m, public_ip: row.wanted_public_ip, ports: [] }
    if (step.do === 'delete') this.machine = null
  }

  /** The world goes on without us. */
  world(event: Event): void {
    const m = this.machine
    if (event === 'host reboot') {
      this.boot++
      const on = m?.power === 'running' || m?.power === 'paused'
      if (on) this.machine = { ...m, power: 'crashed', trouble: 'host_reboot', ready: false }
      if (this.machine) this.machine = { ...this.machine, host_boot: `${this.boot}` }
    }
    if (event === 'room' && m?.trouble === 'disk_full') this.machine = { ...m, trouble: 'disk_error' }
    if (m?.power !== 'running') return
    if (event === 'wakes' && m.trouble === 'hang') this.machine = { ...m, trouble: null }
    if (m.trouble === 'hang' && (event === 'ready' || event === 'off')) return
    if (event === 'hang' && m.ready) this.machine = { ...m, trouble: 'hang' }
    if (event === 'disk error' || event === 'disk full') {
      this.machine = { ...m, power: 'paused', trouble: event === 'disk full' ? 'disk_full' : 'disk_error' }
    }
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
      this.world('room')
      if (this.machine?.trouble === null && this.machine.power === 'running' && this.machine.run === runOf(this.row))
        this.world('ready')
      this.now = new Date(this.now.getTime() + 30_000)
    }
  }
}

type Event =
  | 'ready'
  | 'off'
  | 'crash'
  | 'panic'
  | 'hang'
  | 'wakes'
  | 'disk error'
  | 'disk full'
  | 'room'
  | 'host reboot'

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
const wish = (make: (row: InstanceRow) => DesiredChange): Move => {
  return (life) => life.wish(() => make(life.row))
}
const moves: [string, Move][] = [
  ['look', (l) => void l.look()],
  ['look and die', (l) => void l.look('before the step')],
  ['ready', (l) => l.world('ready')],
  ['off', (l) => l.world('off')],
  ['crash', (l) => l.world('crash')],
  ['panic', (l) => l.world('panic')],
  ['hang', (l) => l.world('hang')],
  ['wakes', (l) => l.world('wakes')],
  ['disk error', (l) => l.world('disk error')],
  ['disk full', (l) => l.world('disk full')],
  ['room', (l) => l.world('room')],
  ['host reboot', (l) => l.world('host reboot')],
  ['others first', (l) => void (l.turn = false)],
  ['my turn', (l) => void (l.turn = true)],
  ['second', (l) => void (l.now = new Date(l.now.getTime() + 1_000))],
  ['minute', (l) => void (l.now = new Date(l.now.getTime() + 61_000))],
  ['long', (l) => void (l.now = new Date(l.now.getTime() + 301_000))],
  ['image breaks', (l) => void (l.image = { present: false, error: { code: 'image_x', message: 'x' } })],
  ['image comes', (l) => void (l.image = { present: true, error: null })],
  ['start', wish(start)],
  ['stop', wish((row) => stop(row, 60))],
  ['force stop', wish((row) => stop(row, 0))],
  ['reboot', wish((row) => reboot(row, 60))],
  ['rebuild', wish(rebuild)],
  ...PLANS.map((p): [string, Move] => [
    `resize ${p.id}`,
    wish((row) => (row.wanted_plan === p.id ? {} : resize(row, p, { allow_reboot: true, stops: false }))),
  ]),
  ...PLANS.map((p): [string, Move] => [
    `resize ${p.id} and stop`,
    wish((row) =>
      row.wanted_plan === p.id ? {} : { ...resize(row, p, { allow_reboot: false, stops: true }), ...stop(row, 60) },
    ),
  ]),
  ['no recovery', wish(() => ({ auto_recovery: false }))],
  ['terminate', wish(terminate)],
  [
    'to expire',
    (l) => void (l.row = { ...l.row, expires_at: l.row.expires_at ?? new Date(l.now.getTime() + 200_000) }),
  ],
]
const world = (event: Event): Move => moves.find(([name]) => name === event)![1]
/** A guest that is up for some time and then fails, over and over, with looks in between. */
const hardLife = fc.array(
  fc.tuple(
    fc.constantFrom<Event>('crash', 'panic', 'hang', 'disk error', 'host reboot'),
    fc.constantFrom(0, 1, 30, 300, 599, 600, 1_000, 1_801),
  ),
  { maxLength: 40 },
)
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
        life.turn = true
        life.settle()
        const { row, machine } = life
        const on = machine?.power === 'running'
        if (isTerminating(row)) assert.deepEqual([row.status, machine], ['terminated', null])
        else if (row.status === 'failed') assert.ok(row.observed_problem && row.status_reason)
        else if (row.status === 'stopped') assert.equal(on, false)
        else
          assert.deepEqual(
            [row.status, on, machine?.run, machine?.disk],
            ['running', true, runOf(row), row.wanted_disk],
          )
        if (row.wanted_power === 'stopped' && !isTerminating(row)) assert.equal(row.status, 'stopped')
      }),
      { numRuns: 3000 },
    )
  })

  test('at rest nothing more is done', () => {
    fc.assert(
      fc.property(history, (names) => {
        const life = run(names)
        life.image = { present: true, error: null }
        life.turn = true
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

  test('a guest that comes up and fails for ever is given up: five starts in half an hour, whatever the causes', () => {
    fc.assert(
      fc.property(hardLife, (failures) => {
        const life = run([])
        life.settle()
        let reboots = 0
        for (const [event, seconds] of failures) {
          life.now = new Date(life.now.getTime() + seconds * 1_000)
          if (event === 'host reboot') reboots++
          world(event)(life)
          for (let look = 0; look < 400 && life.row.status !== 'failed'; look++) {
            life.look()
            if (life.row.status === 'running' && life.machine?.trouble === null) break
            if (life.machine?.power === 'running' && life.machine.trouble === null) life.world('ready')
            else life.now = new Date(life.now.getTime() + 1_000)
          }
          const from = life.now.getTime() - WINDOW_SECONDS * 1_000
          const lately = life.recoveries.filter((time) => time.getTime() > from).length
          assert.ok(lately <= MAX_FAILURES + reboots, `${lately} starts within half an hour`)
          if (life.row.status === 'failed') {
            assert.equal(life.row.status_reason?.code, 'crash_loop')
            assert.equal(life.row.observed_failures?.at.length, MAX_FAILURES + 1)
            life.wish(() => start(life.row))
            life.settle()
            assert.deepEqual([life.row.status, life.row.observed_failures], ['running', null], 'a start clears it')
            life.recoveries = []
          } else assert.equal(life.row.status, 'running')
        }
      }),
      { numRuns: 500 },
    )
  })

  test('a stop during a recovery wins, whatever it waits for', () => {
    for (const event of ['crash', 'panic', 'hang', 'disk full', 'host reboot'] as const) {
      const life = run([])
      life.settle()
      life.world('crash')
      life.look() // so that there is something to wait for
      life.world('ready')
      life.look()
      life.turn = false
      life.world(event)
      life.look()
      assert.equal(life.row.status, 'recovering', event)
      const { starts } = life
      life.wish(() => stop(life.row, 60))
      life.settle()
      assert.deepEqual([life.row.status, life.starts, life.row.recovery?.outcome], ['stopped', starts, 'cancelled'])
    }
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
