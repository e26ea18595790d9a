/**
 * Crashes at random moments, under load. Clients create, stop, start and delete real guests all the time, and write to
 * simulated instances with a journal of what was acknowledged. The control plane, PostgreSQL and the QEMU of a guest are
 * killed -9 in between, and the host lacks descriptors, a PostgreSQL that responds, connections to it, or disk space for a
 * while. What must hold: everything that was acknowledged exists, with exactly one event, and nothing else
 * has one; every desired state is reached in the end; no wake is lost; no guest restarts without a reason; no instance
 * ever has two processes; no response is a 5xx other than 503 and 507; and after all guests are deleted nothing is left. The
 * invariants of every moment are checked all the time (watch.ts); a violation ends the loop.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect, type Sql } from '../server/src/db/database.ts'
import { systemClock } from '../server/src/lib/clock.ts'
import { DatabaseUnavailableError } from '../server/src/lib/errors.ts'
import { type Random, seededRandom } from '../server/src/lib/random.ts'
import { LEDGERS } from '../server/src/testing/audit.ts'
import { installProbes } from '../server/src/testing/probes.ts'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane } from './control-plane.ts'
import { Guests } from './crash-loop-guests.ts'
import { guestProcesses, pidOfGuest } from './crash-loop-processes.ts'
import { EventReceiver } from './event-receiver.ts'
import { Journal } from './journal.ts'
import { leftovers } from './leaks.ts'
import type { MutantName } from './mutants.ts'
import {
  fillDisk,
  mountSmallDisk,
  pausePostgres,
  refuseConnections,
  takeDescriptors,
  unmountSmallDisk,
} from './starvation.ts'
import { type Finding, findingsOf, InvariantViolationError, Watch } from './watch.ts'

export type Scenario = {
  seed: number
  /** Real guests at the same time. */
  guests: number
  control_plane_kills: number
  postgres_kills: number
  qemu_kills: number
  /** What the host lacks for a while, once each. */
  lacks?: Lack[]
  mutant?: MutantName
}
type Lack = 'descriptors' | 'a PostgreSQL that responds' | 'connections' | 'disk space'
type Kill = 'control plane' | 'PostgreSQL' | 'QEMU' | Lack

const MAX_KILLS_OF_ONE = 3
const LACK_MS = 4_000
const SMALL_DISK_MIB = 2_600

/**
 * Runs one scenario on a control plane of its own and prints its seed. Throws an InvariantViolationError when a check
 * finds a violation.
 */
export async function crashLoop(scenario: Scenario): Promise<void> {
  process.stdout.write(`crash loop ${JSON.stringify(scenario)}\n`)
  const { mutant } = scenario
  const disk = scenario.lacks?.includes('disk space') ? mkdtempSync(join(tmpdir(), 'cn-small-')) : null
  if (disk) await mountSmallDisk(disk, SMALL_DISK_MIB)
  const plane = await ControlPlane.create({ ...(mutant && { mutant }), ...(disk && { parent: disk, open: true }) })
  const owner = connect({ url: plane.database_url, max: 2, name: 'crash-loop' })
  await installProbes(owner)
  const receiver = await EventReceiver.start(plane, owner)
  const watch = new Watch(owner, plane.data_dir)
  const loop = new CrashLoop(scenario, { plane, owner, receiver, watch, disk })
  try {
    await loop.run()
  } catch (error) {
    await loop.stop(error)
    if (!mutant) process.stdout.write(plane.lastLog())
    if (error instanceof InvariantViolationError) throw error
    const findings = await watch.findings()
    throw findings.length > 0 ? new InvariantViolationError(findings, { cause: error }) : error
  } finally {
    receiver.close()
    await owner.end()
    watch.stop()
    await plane.teardown()
    if (disk) unmountSmallDisk(disk)
    if (disk) rmdirSync(disk)
  }
}

type Parts = { plane: ControlPlane; owner: Sql; receiver: EventReceiver; watch: Watch; disk: string | null }

class CrashLoop {
  readonly #parts: Parts
  readonly #random: Random
  readonly #guests: Guests
  readonly #journal: Journal
  readonly #kills: Kill[]
  readonly #clients: Promise<void>[]
  readonly #recoveries: Promise<void>[] = []
  #working = true
  #failure: unknown = null

  constructor(scenario: Scenario, parts: Parts) {
    this.#parts = parts
    this.#random = seededRandom(scenario.seed)
    this.#guests = new Guests(parts.plane, this.#random, scenario.guests)
    this.#journal = new Journal(parts.plane, seededRandom(scenario.seed + 1))
    this.#kills = shuffled<Kill>(this.#random, [
      ...Array.from({ length: scenario.control_plane_kills }, () => 'control plane' as const),
      ...Array.from({ length: scenario.postgres_kills }, () => 'PostgreSQL' as const),
      ...Array.from({ length: scenario.qemu_kills }, () => 'QEMU' as const),
      ...(scenario.lacks ?? []),
    ])
    const working = () => this.#working
    this.#clients = [this.#guests, this.#guests, this.#journal, this.#journal].map((each) => each.client(working))
    for (const client of this.#clients) client.catch((error) => (this.#failure ??= error))
  }

  /** All kills, then the checks of the end. */
  async run(): Promise<void> {
    for (const kill of this.#kills) await this.#round(kill)
    this.#working = false
    await Promise.all([...this.#clients, ...this.#recoveries])
    await this.#settle()
    await this.#deleteAll()
    await this.#checkLedgers()
  }

  /** Ends the clients after a failure, and waits until the API is ready: without its database there is nothing to check. */
  async stop(error: unknown): Promise<void> {
    this.#working = false
    this.#failure ??= error
    await Promise.allSettled([...this.#clients, ...this.#recoveries])
    await until('the API is ready', () => this.#isReady(), 30).catch(() => {})
  }

  async #round(kill: Kill): Promise<void> {
    const { plane, watch } = this.#parts
    const { known } = this.#guests
    const round = ++this.#guests.round
    if (this.#failure) throw this.#failure
    await systemClock.sleep(300 + this.#random.integer(2_500))
    const settled = [...known.values()].filter(({ desired, touched }) => desired === 'running' && touched < round - 1)
    const before = guestProcesses(plane)
    await this.#kill(kill, before)
    await this.#wait('the API is ready', () => this.#isReady())
    await watch.check()
    // Creates whose response was lost in the crash; no client would ever stop or delete them.
    for (const { id } of await this.#list()) this.#guests.add(id)
    for (const { id, touched } of settled.filter(({ id }) => before.has(id))) {
      if (touched >= round - 1) continue
      assert.equal(guestProcesses(plane).get(id), before.get(id), `${id} was restarted by a kill of the ${kill}`)
    }
  }

  async #kill(kill: Kill, before: Map<string, string>): Promise<void> {
    const { plane } = this.#parts
    if (kill === 'PostgreSQL') return void process.kill(plane.postgres_pid, 'SIGKILL')
    if (kill === 'QEMU') return this.#wait('a guest was killed', () => this.#killGuest())
    if (kill !== 'control plane') return this.#lack(kill)
    await plane.end('SIGKILL')
    for (const [id, process] of guestProcesses(plane)) if (before.has(id)) assert.equal(process, before.get(id))
    await plane.start()
  }

  /** Lets the host lack something for a while. */
  async #lack(what: Lack): Promise<void> {
    const { plane, owner, disk } = this.#parts
    const take = {
      descriptors: () => takeDescriptors(plane),
      'a PostgreSQL that responds': () => pausePostgres(plane),
      connections: () => refuseConnections(owner),
      'disk space': () => fillDisk(disk!, 0),
    }
    const giveBack = await take[what]()
    await systemClock.sleep(LACK_MS)
    await giveBack()
  }

  /** Kills the process of a guest that should run, once it is ready. Returns false when there is no such guest. */
  async #killGuest(): Promise<boolean> {
    const victim = [...this.#guests.known.values()].find(
      ({ desired, reserved, kills }) => desired === 'running' && !reserved && kills < MAX_KILLS_OF_ONE,
    )
    if (!victim) return false
    Object.assign(victim, { reserved: true, touched: this.#guests.round })
    await this.#reach(victim.id, 'running')
    process.kill(pidOfGuest(this.#parts.plane, victim.id), 'SIGKILL')
    const kills = ++victim.kills
    const { id } = victim
    await this.#wait('the loss was observed', async () => (await this.#events(id, 'instance.recovering')) >= kills)
    // The next kills may occur during its recovery. A request of a client would end it.
    const recovered = this.#wait(
      'the guest has recovered',
      async () => (await this.#events(id, 'instance.recovered')) >= kills,
      300,
    )
    this.#recoveries.push(recovered.then(() => void (victim.reserved = false)))
    this.#recoveries.at(-1)!.catch(() => {}) // `run` awaits it
    return true
  }

  /** Number of events of this type of the guest; 0 while PostgreSQL is unavailable. */
  async #events(id: string, type: string): Promise<number> {
    try {
      return (await this.#parts.owner`select from events where resource_id = ${id} and type = ${type}`).count
    } catch (error) {
      if (error instanceof DatabaseUnavailableError) return 0
      throw error
    }
  }

  async #isReady(): Promise<boolean> {
    return (await this.#guests.call('GET', '/readyz'))?.status === 200
  }

  /** Waits for a condition; a failure of a client and a violation end the wait. */
  #wait(expected: string, holds: () => unknown, seconds?: number): Promise<void> {
    const evaluate = async () => {
      if (this.#failure) throw this.#failure
      await this.#parts.watch.poll()
      return holds()
    }
    return until(expected, evaluate, seconds, 50)
  }

  /** Waits until the instance has one of the statuses, which are separated by commas. */
  async #reach(id: string, statuses: string, seconds?: number): Promise<void> {
    const isReached = async () => {
      const response = await this.#guests.call('GET', `/v2/instances/${id}?wait_for=${statuses}&timeout=1`)
      const status = response?.body.status
      if (statuses.split(',').includes(status)) return true
      if (status === 'failed') throw new Error(`${id} has failed: ${JSON.stringify(response!.body)}`)
      return false
    }
    await this.#wait(`${id} is ${statuses}`, isReached, seconds)
  }

  async #list(): Promise<{ id: string; status: string }[]> {
    // PostgreSQL may just have been killed.
    let data: { id: string; status: string }[] | undefined
    await this.#wait('the list responds', async () => {
      data = (await this.#guests.call('GET', '/v2/instances?limit=100'))?.body.data
      return data !== undefined
    })
    return data!
  }

  /** In the end every acknowledged desired state is reached, and every acknowledged instance exists. */
  async #settle(): Promise<void> {
    const { known } = this.#guests
    const all = await this.#list()
    for (const { id } of known.values()) {
      const response = await this.#guests.call('GET', `/v2/instances/${id}`)
      assert.equal(response?.status, 200, `${id} was acknowledged and does not exist`)
    }
    for (const { id } of all) {
      await this.#reach(id, known.get(id)?.desired ?? 'running,stopped,terminated', 180)
    }
    const running = (await this.#list()).filter(({ status }) => status === 'running').map(({ id }) => id)
    assert.deepEqual([...guestProcesses(this.#parts.plane).keys()].sort(), running.sort())
  }

  async #deleteAll(): Promise<void> {
    const { data_dir } = this.#parts.plane
    const all = await this.#list()
    await Promise.all(all.map(({ id }) => this.#guests.call('DELETE', `/v2/instances/${id}`)))
    for (const { id } of all) await this.#reach(id, 'terminated')
    await this.#wait('all machines are removed', () => leftovers(data_dir).length === 0, 30).catch(() => {
      assert.deepEqual(leftovers(data_dir), [])
    })
    const { used } = (await this.#guests.call('GET', '/v2/regions'))!.body.data[0].capacity
    assert.deepEqual(used, { vcpus: 0, memory_bytes: 0, disk_bytes: 0 })
  }

  /** Every committed change has exactly its events, every event was delivered, and the sums are right. */
  async #checkLedgers(): Promise<void> {
    const { owner, receiver, watch } = this.#parts
    await this.#journal.decide()
    const environments = await owner<{ id: string }[]>`select id from environments where mode in ('live', 'test')`
    await this.#wait('no instance is in transition', async () => {
      const inTransition = await owner`
        select from instances where status not in ('running', 'stopped', 'failed', 'terminated') or (status = 'running' and not observed_ready)`
      return inTransition.count === 0
    })
    const journal = await this.#journal.compare(owner)
    const findings: Finding[] = [...(await watch.findings()), ...findingsOf('journal', journal.findings)]
    for (const { id } of environments)
      for (const kind of Object.keys(LEDGERS) as (keyof typeof LEDGERS)[])
        findings.push(...findingsOf(kind, await LEDGERS[kind](owner, id)))
    const delivered = await receiver.compare(owner)
    findings.push(...findingsOf('deliveries', delivered.findings))
    if (findings.length > 0) throw new InvariantViolationError(findings)
    const [sum] = await owner<{ events: number; recovered: number }[]>`
      select count(*) as events, count(*) filter (where type = 'instance.recovered') as recovered from events`
    const { events, recovered } = sum!
    const { written } = journal
    process.stdout.write(`delivered ${delivered.events} events, ${delivered.repeated} more than once\n`)
    process.stdout.write(
      `${this.#kills.length} kills, ${events} events, ${recovered} recoveries, writes ${JSON.stringify(written)}\n`,
    )
    assert.ok(written.done > 0 && recovered > 0)
  }
}

function shuffled<T>(random: Random, items: T[]): T[] {
  const rest = [...items]
  return items.map(() => rest.splice(random.integer(rest.length), 1)[0]!)
}
