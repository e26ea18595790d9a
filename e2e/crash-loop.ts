/**
 * Crashes at random moments, under load. Real guests are created, stopped, started and deleted all the time, and beside
 * them simulated ones, with a journal of what was acknowledged; now and then the control plane, PostgreSQL or the QEMU
 * of a guest is killed -9 in the middle. What must hold: everything that was answered is there, with exactly one event;
 * nothing else has one; every wish is met in the end, no wake is lost, no guest that nobody touched was restarted, no
 * instance ever has two processes, and when all are deleted nothing is left. What has to hold at every moment is looked
 * at all the time (watch.ts) and ends the loop where it does not.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect } from '../server/src/db/database.ts'
import { CANARY } from '../server/src/db/testing-canary.ts'
import { identify } from '../server/src/lib/processes.ts'
import { type Random, seededRandom } from '../server/src/lib/random.ts'
import { BOOKS } from '../server/src/matrix/audit.ts'
import { installProbes } from '../server/src/matrix/probes.ts'
import { until } from '../server/src/testing/until.ts'
import { ControlPlane } from './control-plane.ts'
import { EventReceiver } from './event-receiver.ts'
import { Journal } from './journal.ts'
import { leftovers, qemuProcesses } from './leaks.ts'
import type { PlantName } from './plants.ts'
import { BrokenBuildError, type Finding, findingsOf, Watch } from './watch.ts'

export type Scenario = {
  seed: number
  /** Real guests at the same time. */
  guests: number
  control_plane_kills: number
  postgres_kills: number
  qemu_kills: number
  /** A bug that the build has on purpose. */
  plant?: PlantName
}
type Kill = 'control plane' | 'PostgreSQL' | 'QEMU'

/** What the client knows of one instance. `wish` is null while a request got no answer. */
type Known = {
  id: string
  wish: 'running' | 'stopped' | 'gone' | null
  touched: number
  /** How often its QEMU was killed. More is a crash loop, which is given up. */
  killed: number
  /** Nobody wishes for anything: its QEMU is being killed. */
  spared: boolean
}

const MAX_KILLS_OF_ONE = 3

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', user_data: `#!/bin/sh\n: ${CANARY}\n` }

/**
 * Runs one scenario on a control plane of its own. Prints the seed, so that a failure can be looked at again. Throws a
 * BrokenBuildError where something was found that says what is broken.
 */
export async function crashLoop(scenario: Scenario): Promise<void> {
  process.stdout.write(`crash loop ${JSON.stringify(scenario)}\n`)
  const random = seededRandom(scenario.seed)
  const { plant } = scenario
  const plane = await ControlPlane.create(plant ? { plant } : {})
  const known = new Map<string, Known>()
  let round = 0
  let working = true
  const owner = connect({ url: databaseUrl(plane), max: 2, name: 'crash-loop' })
  await installProbes(owner)
  const journal = new Journal(plane, seededRandom(scenario.seed + 1))
  const receiver = await EventReceiver.start(plane, owner)
  const recoveries: Promise<void>[] = []
  const watch = new Watch(owner, plane.data_dir)
  let failure: unknown = null

  const know = (id: string) => known.set(id, { id, wish: 'running', touched: round, killed: 0, spared: false })

  /** One client: picks an operation, makes it, notes what was answered. An answer that never came leaves a doubt. */
  async function client(): Promise<void> {
    while (working) {
      const own = [...known.values()].filter((k) => k.wish !== 'gone' && !k.spared)
      const target = own[random.integer(Math.max(1, own.length))]
      const luck = random.integer(100)
      if (own.length < scenario.guests && (luck < 60 || !target)) await attempt(create)
      else if (target && luck < 80) await attempt(() => act(target, target.wish === 'running' ? 'stop' : 'start'))
      else if (target && luck < 90) await attempt(() => remove(target))
      await new Promise((resolve) => setTimeout(resolve, 100 + random.integer(400)))
    }
  }
  /** The connection may break at any line; that is what this is about. */
  const attempt = (operation: () => Promise<void>): Promise<void> =>
    operation().catch((error) => {
      if (error instanceof assert.AssertionError) throw error
    })

  const isReady = async () => (await plane.call('GET', '/readyz').catch(() => null))?.status === 200

  /** Waits for a state, and no longer than until anything has gone wrong elsewhere. */
  const wait = (what: string, condition: () => unknown, seconds?: number): Promise<void> =>
    until(
      what,
      async () => {
        if (failure) throw failure
        await watch.glance()
        return condition()
      },
      seconds,
    )

  async function reach(id: string, statuses: string, seconds?: number): Promise<void> {
    await wait(
      `${id} is ${statuses}`,
      async () => {
        const { body } = await plane.call('GET', `/v2/instances/${id}?wait_for=${statuses}&timeout=1`)
        const isThere = statuses.split(',').includes(body.status)
        if (body.status === 'failed' && !isThere) throw new Error(`${id} is failed: ${JSON.stringify(body)}`)
        return isThere
      },
      seconds,
    )
  }

  async function create(): Promise<void> {
    const { status, body } = await plane.call('POST', '/v2/instances', BODY)
    if (status >= 500 || body.code === 'capacity_exhausted') return
    assert.equal(status, 201, JSON.stringify(body))
    know(body.id)
  }
  async function act(target: Known, action: 'start' | 'stop'): Promise<void> {
    const before = target.wish
    Object.assign(target, { wish: null, touched: round })
    const body = action === 'stop' ? { timeout_seconds: 5 } : {}
    const { status } = await plane.call('POST', `/v2/instances/${target.id}/actions/${action}`, body)
    if (status === 202) target.wish = action === 'stop' ? 'stopped' : 'running'
    else if (status === 409) target.wish = before
  }
  async function remove(target: Known): Promise<void> {
    Object.assign(target, { wish: null, touched: round })
    const { status } = await plane.call('DELETE', `/v2/instances/${target.id}`)
    if (status === 202) target.wish = 'gone'
  }

  /** The processes of guests that are up, and that nobody asks anything of any more. */
  function runningGuests(): Map<string, string> {
    return new Map(
      qemuProcesses(plane.data_dir).flatMap(({ pid, command }) => {
        const id = /inst_[0-9a-z]{10}/.exec(command)?.[0]
        const identity = identify(pid)
        return id && identity ? [[id, `${pid}:${identity.start_time}`] as const] : []
      }),
    )
  }

  /** Kills the process of a guest that should run, once it is up, and is left alone until its loss was seen. */
  async function killGuest(): Promise<boolean> {
    const victim = [...known.values()].find((k) => k.wish === 'running' && !k.spared && k.killed < MAX_KILLS_OF_ONE)
    if (!victim) return false
    Object.assign(victim, { spared: true, touched: round })
    await reach(victim.id, 'running')
    const pids = qemuProcesses(plane.data_dir).filter(({ command }) => command.includes(victim.id))
    assert.equal(pids.length, 1)
    process.kill(pids[0]!.pid, 'SIGKILL')
    victim.killed++
    const { id, killed } = victim
    await wait('the loss is seen', async () => (await told(id, 'instance.recovering')) >= killed)
    // The next kills may fall into its recovery; wishes would end it.
    const recovered = wait('the guest has recovered', async () => (await told(id, 'instance.recovered')) >= killed, 300)
    recoveries.push(recovered.then(() => void (victim.spared = false)))
    recoveries.at(-1)!.catch(() => {}) // it is awaited in the end
    return true
  }

  const kills = shuffled<Kill>(random, [
    ...Array.from({ length: scenario.control_plane_kills }, () => 'control plane' as const),
    ...Array.from({ length: scenario.postgres_kills }, () => 'PostgreSQL' as const),
    ...Array.from({ length: scenario.qemu_kills }, () => 'QEMU' as const),
  ])
  const writers = [journal.client(() => working), journal.client(() => working)]
  const background = [client(), client(), ...writers]
  for (const one of background) one.catch((error) => (failure ??= error))
  try {
    for (const kill of kills) {
      round++
      if (failure) throw failure
      await new Promise((resolve) => setTimeout(resolve, 300 + random.integer(2_500)))
      const settled = [...known.values()].filter((k) => k.wish === 'running' && k.touched < round - 1).map((k) => k.id)
      const before = runningGuests()
      if (kill === 'control plane') {
        await plane.end('SIGKILL')
        const after = runningGuests()
        for (const [id, process] of after) if (before.has(id)) assert.equal(process, before.get(id))
        await plane.start()
      } else if (kill === 'PostgreSQL') process.kill(postmaster(plane), 'SIGKILL')
      else await wait('a guest was killed', killGuest)
      await wait('the API answers again', isReady)
      await watch.check()
      // Creates whose answer was lost in the crash; nobody else would ever stop or delete them.
      for (const { id } of await list()) if (!known.has(id)) know(id)
      for (const id of settled.filter((id) => before.has(id) && known.get(id)!.touched < round - 1)) {
        assert.equal(runningGuests().get(id), before.get(id), `${id} was restarted by a kill of the ${kill}`)
      }
    }
    working = false
    await Promise.all([...background, ...recoveries])
    await settle()
    await removeAll()
    await checkBooks()
  } catch (error) {
    working = false
    failure ??= error
    await Promise.allSettled([...background, ...recoveries])
    // What just was killed comes back; without its database nothing could be looked at.
    await until('the API answers again', isReady, 30).catch(() => {})
    if (!plant) process.stdout.write(plane.lastLog())
    if (error instanceof BrokenBuildError) throw error
    const findings = await watch.look()
    throw findings.length > 0 ? new BrokenBuildError(findings, { cause: error }) : error
  } finally {
    receiver.close()
    await owner.end()
    watch.stop()
    await plane.teardown()
  }

  /** Every committed change has its one event, and every event its change; the sums add up. */
  async function checkBooks(): Promise<void> {
    await journal.decide()
    const environments = await owner<{ id: string }[]>`select id from environments where mode in ('live', 'test')`
    await wait('everything rests', async () => {
      const moving = await owner`
        select from instances where status not in ('running', 'stopped', 'failed', 'terminated') or (status = 'running' and not observed_ready)`
      return moving.count === 0
    })
    const { findings: unlike, written } = await journal.compare(owner)
    const findings: Finding[] = [...(await watch.look()), ...findingsOf('journal', unlike)]
    for (const { id } of environments)
      for (const kind of Object.keys(BOOKS) as (keyof typeof BOOKS)[])
        findings.push(...findingsOf(kind, await BOOKS[kind](owner, id)))
    const delivered = await receiver.compare(owner)
    findings.push(...findingsOf('deliveries', delivered.findings))
    if (findings.length > 0) throw new BrokenBuildError(findings)
    const [sum] = await owner<{ events: number; recovered: number }[]>`
      select count(*) as events, count(*) filter (where type = 'instance.recovered') as recovered from events`
    const { events, recovered } = sum!
    process.stdout.write(`delivered ${delivered.events} events, ${delivered.repeated} more than once\n`)
    process.stdout.write(
      `${kills.length} kills, ${events} events, ${recovered} recoveries, writes ${JSON.stringify(written)}\n`,
    )
    assert.ok(written.done > 0 && recovered > 0)
  }

  /** How many events of this type the guest has; none while PostgreSQL is away. */
  async function told(id: string, type: string): Promise<number> {
    const events = await owner`select from events where resource_id = ${id} and type = ${type}`.catch(() => null)
    return events?.count ?? 0
  }

  /** In the end every wish that was answered is met, and nothing that was answered is missing. */
  async function settle(): Promise<void> {
    const all = await list()
    for (const { id } of known.values()) {
      const { status } = await plane.call('GET', `/v2/instances/${id}`)
      assert.equal(status, 200, `${id} was answered with 201 and is not there`)
    }
    for (const { id } of all) {
      const wish = known.get(id)?.wish
      if (wish) await reach(id, wish === 'gone' ? 'terminated' : wish, 180)
      else await reach(id, 'running,stopped,terminated', 180)
    }
    const up = (await list()).filter((instance: { status: string }) => instance.status === 'running')
    const ids = (items: Iterable<string>) => [...items].sort()
    assert.deepEqual(ids(runningGuests().keys()), ids(up.map((instance: { id: string }) => instance.id)))
  }

  async function list(): Promise<{ id: string; status: string }[]> {
    // A kill of PostgreSQL takes a moment to be noticed, so it may still hit this call.
    let data: { id: string; status: string }[] | undefined
    await wait('the list answers', async () => {
      data = (await plane.call('GET', '/v2/instances?limit=100').catch(() => null))?.body.data
      return data !== undefined
    })
    return data!
  }

  async function removeAll(): Promise<void> {
    const all = await list()
    await Promise.all(all.map(({ id }) => plane.call('DELETE', `/v2/instances/${id}`)))
    for (const { id } of all) await reach(id, 'terminated')
    await wait('nothing is left', () => leftovers(plane.data_dir).length === 0, 30).catch(() => {
      assert.deepEqual(leftovers(plane.data_dir), [])
    })
    const { used } = (await plane.call('GET', '/v2/regions')).body.data[0].capacity
    assert.deepEqual(used, { vcpus: 0, memory_bytes: 0, disk_bytes: 0 })
  }
}

/** The embedded server's own process, and its socket. */
const postmasterFile = (plane: ControlPlane) =>
  readFileSync(join(plane.data_dir, 'postgres/postmaster.pid'), 'utf8').split('\n')
const postmaster = (plane: ControlPlane): number => Number(postmasterFile(plane)[0])
const databaseUrl = (plane: ControlPlane): string =>
  `postgres://cloudnexus@/cloudnexus?host=${encodeURIComponent(postmasterFile(plane)[4]!.trim())}`

function shuffled<T>(random: Random, items: T[]): T[] {
  const rest = [...items]
  return items.map(() => rest.splice(random.integer(rest.length), 1)[0]!)
}
