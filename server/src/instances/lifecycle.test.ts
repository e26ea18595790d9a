/**
 * Property tests of the pure functions of an instance (desired, observe, decide, status, events): random histories
 * against a model of a machine. No database, no driver: thousands of histories per second.
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

/** An instance, a model of its machine, and all emitted events. */
class Model {
  row: InstanceRow = newRow()
  machine: ObservedMachine | null = null
  image = { present: false, error: null as { code: string; message: string } | null }
  now = new Date('2030-01-01T00:00:00Z')
  events: string[] = []
  starts = 0
  /** Number of resizes. */
  resizes = 0
  /** Whether a recovery slot is free after a host reboot. */
  hasSlot = true
  boot = 1
  /** When machines were restarted automatically. */
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
    if (before.wanted_plan !== this.row.wanted_plan) this.resizes++
    const pending = this.row.wanted_size_before === null ? 0 : 1
    const emitted = this.events.filter((type) => type === 'instance.scaled').length
    assert.equal(emitted + pending, this.resizes, 'a resize emits one event, when it is complete')
  }

  /** Checks the record of recoveries against the status. */
  checkRecovery(before: InstanceRow): void {
    const { row } = this
    const open = openRecovery(row)
    if (row.status === 'recovering') assert.ok(open, 'a recovering instance has an open record')
    if (['running', 'failed', 'stopping', 'stopped', 'terminating', 'terminated'].includes(row.status)) {
      assert.equal(open, null, `no recovery is open while the instance is ${row.status}`)
    }
    const [last, next] = [before.recovery, row.recovery]
    if (last && next?.number === last.number && last.outcome !== null) assert.deepEqual(next, last)
    if (next && next.number !== last?.number) assert.equal(next.number, (last?.number ?? 0) + 1)
    if (next && last?.outcome === null)
      assert.equal(next.number, last.number, 'a recovery ends before the next one begins')
  }

  request(make: () => DesiredChange): void {
    if (this.row.terminated_at) return
    try {
      const change = make()
      if (Object.keys(change).length > 0) this.save({ ...change, wanted_at: this.now })
    } catch (error) {
      assert.ok(error instanceof ApiError, String(error))
    }
  }

  /** One reconcile pass; the process can crash after the transaction, before the step. */
  pass(crash: 'none' | 'before the step' = 'none'): Step {
    const seen = { ...this.row, ...observed(this.row, this.machine, this.now) }
    const hasSlot = this.hasSlot || !needsRecoverySlot(seen, this.machine)
    const step = decide(seen, this.machine, this.image, this.now, hasSlot)
    const gone = step.do === 'finalise' ? { terminated_at: this.now } : {}
    this.save({ ...seen, ...columnsAfter(seen, step), ...gone })
    if (crash !== 'before the step') this.act(step)
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
      assert.ok(m && m.run < runOf(row), 'each run is started once')
      assert.ok(m && m.power !== 'running' && m.power !== 'paused', 'no second process on one disk')
      assert.ok(!isTerminating(row) && row.wanted_power === 'running', 'only a desired instance is started')
      if (step.recovering) {
        assert.ok(row.auto_recovery, 'restarts only with auto_recovery')
        assert.ok(this.hasSlot || !needsRecoverySlot(row, m), 'starts only with a recovery slot')
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

  /** Changes the machine from outside. */
  inject(event: Event): void {
    const m = this.machine
    if (event === 'host reboot') {
      this.boot++
      const on = m?.power === 'running' || m?.power === 'paused'
      if (on) this.machine = { ...m, power: 'crashed', trouble: 'host_reboot', ready: false }
      if (this.machine) this.machine = { ...this.machine, host_boot: `${this.boot}` }
    }
    if (event === 'disk freed' && m?.trouble === 'disk_full') this.machine = { ...m, trouble: 'disk_error' }
    if (m?.power !== 'running') return
    if (event === 'resumes' && m.trouble === 'hang') this.machine = { ...m, trouble: null }
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

  /** Reconciles without faults until nothing is left to do: guests obey and time passes. */
  settle(): void {
    for (let i = 0; i < 60; i++) {
      const step = this.pass()
      if (step.do === 'power_down') this.inject('off')
      this.inject('disk freed')
      if (this.machine?.trouble === null && this.machine.power === 'running' && this.machine.run === runOf(this.row))
        this.inject('ready')
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
  | 'resumes'
  | 'disk error'
  | 'disk full'
  | 'disk freed'
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

type Move = (model: Model) => void
const request = (make: (row: InstanceRow) => DesiredChange): Move => {
  return (model) => model.request(() => make(model.row))
}
const moves: [string, Move][] = [
  ['pass', (l) => void l.pass()],
  ['pass and crash', (l) => void l.pass('before the step')],
  ['ready', (l) => l.inject('ready')],
  ['off', (l) => l.inject('off')],
  ['crash', (l) => l.inject('crash')],
  ['panic', (l) => l.inject('panic')],
  ['hang', (l) => l.inject('hang')],
  ['resumes', (l) => l.inject('resumes')],
  ['disk error', (l) => l.inject('disk error')],
  ['disk full', (l) => l.inject('disk full')],
  ['disk freed', (l) => l.inject('disk freed')],
  ['host reboot', (l) => l.inject('host reboot')],
  ['slots taken', (l) => void (l.hasSlot = false)],
  ['slot free', (l) => void (l.hasSlot = true)],
  ['second', (l) => void (l.now = new Date(l.now.getTime() + 1_000))],
  ['minute', (l) => void (l.now = new Date(l.now.getTime() + 61_000))],
  ['five minutes', (l) => void (l.now = new Date(l.now.getTime() + 301_000))],
  ['image fails', (l) => void (l.image = { present: false, error: { code: 'image_x', message: 'x' } })],
  ['image present', (l) => void (l.image = { present: true, error: null })],
  ['start', request(start)],
  ['stop', request((row) => stop(row, 60))],
  ['force stop', request((row) => stop(row, 0))],
  ['reboot', request((row) => reboot(row, 60))],
  ['rebuild', request(rebuild)],
  ...PLANS.map((p): [string, Move] => [
    `resize ${p.id}`,
    request((row) => (row.wanted_plan === p.id ? {} : resize(row, p, { allow_reboot: true, stops: false }))),
  ]),
  ...PLANS.map((p): [string, Move] => [
    `resize ${p.id} and stop`,
    request((row) =>
      row.wanted_plan === p.id ? {} : { ...resize(row, p, { allow_reboot: false, stops: true }), ...stop(row, 60) },
    ),
  ]),
  ['no recovery', request(() => ({ auto_recovery: false }))],
  ['terminate', request(terminate)],
  [
    'to expire',
    (l) => void (l.row = { ...l.row, expires_at: l.row.expires_at ?? new Date(l.now.getTime() + 200_000) }),
  ],
]
const inject = (event: Event): Move => moves.find(([name]) => name === event)![1]
/** Failures, each after this many seconds. */
const failureHistory = fc.array(
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
  const model = new Model()
  for (const [, move] of names) move(model)
  return model
}

describe('the lifecycle of an instance', () => {
  test('every history has only allowed moves and desired starts', () => {
    fc.assert(
      fc.property(history, (names) => void run(names)),
      { numRuns: 3000 },
    )
  })

  test('reaches the desired state once faults stop', () => {
    fc.assert(
      fc.property(history, (names) => {
        const model = run(names)
        model.image = { present: true, error: null }
        model.hasSlot = true
        model.settle()
        const { row, machine } = model
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

  test('does nothing once the desired state is reached', () => {
    fc.assert(
      fc.property(history, (names) => {
        const model = run(names)
        model.image = { present: true, error: null }
        model.hasSlot = true
        model.settle()
        const { starts, events } = model
        const emitted = events.length
        model.settle()
        assert.deepEqual([model.starts, model.events.length], [starts, emitted])
      }),
      { numRuns: 500 },
    )
  })

  test('emits ready at most once per disk, terminated once, and nothing afterwards', () => {
    fc.assert(
      fc.property(history, (names) => {
        const model = run([...names, ['terminate', request((row) => (row.wanted_gone ? {} : { wanted_gone: true }))]])
        model.settle()
        const count = (type: string) => model.events.filter((e) => e === type).length
        assert.ok(count('instance.ready') <= model.row.wanted_disk)
        assert.equal(count('instance.terminated'), 1)
        assert.equal(model.events.at(-1), 'instance.terminated')
      }),
      { numRuns: 1000 },
    )
  })

  test('stops restarting after five failures in half an hour, whatever the causes', () => {
    fc.assert(
      fc.property(failureHistory, (failures) => {
        const model = run([])
        model.settle()
        let reboots = 0
        for (const [event, seconds] of failures) {
          model.now = new Date(model.now.getTime() + seconds * 1_000)
          if (event === 'host reboot') reboots++
          inject(event)(model)
          for (let passes = 0; passes < 400 && model.row.status !== 'failed'; passes++) {
            model.pass()
            if (model.row.status === 'running' && model.machine?.trouble === null) break
            if (model.machine?.power === 'running' && model.machine.trouble === null) model.inject('ready')
            else model.now = new Date(model.now.getTime() + 1_000)
          }
          const from = model.now.getTime() - WINDOW_SECONDS * 1_000
          const recent = model.recoveries.filter((time) => time.getTime() > from).length
          assert.ok(recent <= MAX_FAILURES + reboots, `${recent} starts within half an hour`)
          if (model.row.status === 'failed') {
            assert.equal(model.row.status_reason?.code, 'crash_loop')
            assert.equal(model.row.observed_failures?.at.length, MAX_FAILURES + 1)
            model.request(() => start(model.row))
            model.settle()
            assert.deepEqual(
              [model.row.status, model.row.observed_failures],
              ['running', null],
              'a start resets the failures',
            )
            model.recoveries = []
          } else assert.equal(model.row.status, 'running')
        }
      }),
      { numRuns: 500 },
    )
  })

  test('a stop cancels a recovery, whatever it waits for', () => {
    for (const event of ['crash', 'panic', 'hang', 'disk full', 'host reboot'] as const) {
      const model = run([])
      model.settle()
      model.inject('crash')
      model.pass() // begins the first backoff
      model.inject('ready')
      model.pass()
      model.hasSlot = false
      model.inject(event)
      model.pass()
      assert.equal(model.row.status, 'recovering', event)
      const { starts } = model
      model.request(() => stop(model.row, 60))
      model.settle()
      assert.deepEqual([model.row.status, model.starts, model.row.recovery?.outcome], ['stopped', starts, 'cancelled'])
    }
  })

  test('restarts a failing guest a bounded number of times', () => {
    const model = run([])
    model.settle()
    assert.equal(model.row.status, 'running')
    for (let i = 0; i < 100; i++) {
      model.inject('crash')
      model.pass()
      model.now = new Date(model.now.getTime() + 100_000)
    }
    assert.deepEqual([model.row.status, model.row.status_reason?.code, model.starts], ['failed', 'crash_loop', 6])
  })

  test('stops a machine that a delayed step has started after the stop', () => {
    const model = run([])
    model.image = { present: true, error: null }
    for (let step = model.pass(); step.do !== 'create'; ) step = model.pass()
    model.request(() => stop(model.row, 60))
    model.pass()
    assert.equal(model.row.status, 'stopped')
    model.machine = { ...newMachine(model.row), power: 'running', run: 1, started_at: model.now }
    model.pass()
    assert.equal(model.row.status, 'stopping')
    model.settle()
    assert.deepEqual([model.row.status, model.machine?.power], ['stopped', 'off'])
  })

  test('every status has allowed moves, including to terminating', () => {
    const all = Object.keys(MOVES) as Status[]
    for (const from of all) for (const to of MOVES[from]) assert.ok(all.includes(to))
    for (const from of all)
      if (from !== 'terminated' && from !== 'terminating') assert.ok(MOVES[from].includes('terminating'))
  })
})
