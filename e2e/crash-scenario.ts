/**
 * Crashes at random moments, under load. Guests are created, stopped, started and deleted all the time; now and then
 * the control plane or PostgreSQL is killed -9 in the middle and started again. What must hold: everything that was
 * answered is there, every wish is met in the end, no guest that nobody touched was restarted, no instance ever has
 * two processes, and when all are deleted nothing is left.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { CANARY } from '../server/src/db/testing-canary.ts'
import { identify } from '../server/src/lib/processes.ts'
import { seededRandom } from '../server/src/lib/random.ts'
import { ControlPlane, until } from './control-plane.ts'
import { leftovers, qemuProcesses } from './leaks.ts'
import { probeMachines } from './one-machine-per-disk.ts'

export type Scenario = { seed: number; guests: number; control_plane_kills: number; postgres_kills: number }

/** What the client knows of one instance. `wish` is null while a request got no answer. */
type Known = { id: string; wish: 'running' | 'stopped' | 'gone' | null; touched: number }

const BODY = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux', user_data: `#!/bin/sh\n: ${CANARY}\n` }

/** Runs one scenario on a control plane of its own. Prints the seed, so that a failure can be looked at again. */
export async function crashScenario(scenario: Scenario): Promise<void> {
  process.stdout.write(`crash scenario ${JSON.stringify(scenario)}\n`)
  const random = seededRandom(scenario.seed)
  const plane = await ControlPlane.create()
  const known = new Map<string, Known>()
  let round = 0
  let working = true
  const probe = probeMachines(plane.data_dir)

  /** One client: picks an operation, makes it, notes what was answered. An answer that never came leaves a doubt. */
  async function client(): Promise<void> {
    while (working) {
      const own = [...known.values()].filter((k) => k.wish !== 'gone')
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

  async function create(): Promise<void> {
    const { status, body } = await plane.call('POST', '/v2/instances', BODY)
    if (status >= 500 || body.code === 'capacity_exhausted') return
    assert.equal(status, 201, JSON.stringify(body))
    known.set(body.id, { id: body.id, wish: 'running', touched: round })
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

  const kills = [
    ...Array.from({ length: scenario.control_plane_kills }, () => 'control plane' as const),
    ...Array.from({ length: scenario.postgres_kills }, () => 'postgres' as const),
  ]
  const background = [client(), client(), client()]
  for (const one of background) one.catch(() => {}) // it is awaited in the end; until then the kills go on
  try {
    for (const kill of kills) {
      round++
      await new Promise((resolve) => setTimeout(resolve, 500 + random.integer(4_000)))
      const settled = [...known.values()].filter((k) => k.wish === 'running' && k.touched < round - 1).map((k) => k.id)
      const before = runningGuests()
      if (kill === 'control plane') {
        await plane.end('SIGKILL')
        const after = runningGuests()
        for (const [id, process] of after) if (before.has(id)) assert.equal(process, before.get(id))
        await plane.start()
      } else {
        process.kill(
          Number(readFileSync(join(plane.data_dir, 'postgres/postmaster.pid'), 'utf8').split('\n')[0]),
          'SIGKILL',
        )
      }
      await until(
        'the API answers again',
        async () => (await plane.call('GET', '/readyz').catch(() => null))?.status === 200,
      )
      // Creates whose answer was lost in the crash; nobody else would ever stop or delete them.
      for (const { id } of await list()) {
        if (!known.has(id)) known.set(id, { id, wish: 'running', touched: round })
      }
      for (const id of settled.filter((id) => before.has(id) && known.get(id)!.touched < round - 1)) {
        assert.equal(runningGuests().get(id), before.get(id), `${id} was restarted by a kill of the ${kill}`)
      }
    }
    working = false
    await Promise.all(background)
    await settle()
    assert.deepEqual(probe.stop(), [], 'instances had two processes')
    await removeAll()
  } catch (error) {
    working = false
    await Promise.allSettled(background)
    process.stdout.write(plane.lastLog())
    throw error
  } finally {
    probe.stop()
    await plane.teardown()
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
      if (wish) await plane.waitFor(id, wish === 'gone' ? 'terminated' : wish, 180)
      else await plane.waitFor(id, 'running,stopped,terminated', 180)
    }
    const up = (await list()).filter((instance: { status: string }) => instance.status === 'running')
    const ids = (items: Iterable<string>) => [...items].sort()
    assert.deepEqual(ids(runningGuests().keys()), ids(up.map((instance: { id: string }) => instance.id)))
  }

  async function list(): Promise<{ id: string; status: string }[]> {
    // A kill of PostgreSQL takes a moment to be noticed, so it may still hit this call.
    let data: { id: string; status: string }[] | undefined
    await until('the list answers', async () => {
      data = (await plane.call('GET', '/v2/instances?limit=100').catch(() => null))?.body.data
      return data !== undefined
    })
    return data!
  }

  async function removeAll(): Promise<void> {
    const all = await list()
    await Promise.all(all.map(({ id }) => plane.call('DELETE', `/v2/instances/${id}`)))
    for (const { id } of all) await plane.waitFor(id, 'terminated')
    await until('nothing is left', () => leftovers(plane.data_dir).length === 0, 30).catch(() => {
      assert.deepEqual(leftovers(plane.data_dir), [])
    })
    const { used } = (await plane.call('GET', '/v2/regions')).body.data[0].capacity
    assert.deepEqual(used, { vcpus: 0, memory_bytes: 0, disk_bytes: 0 })
  }
}
