/**
 * Writes of the API whose transaction fails, or whose process is killed, around the commit. The client gets no response and
 * retries, with the same Idempotency-Key for a POST: the write takes effect once, with one event.
 */
import assert from 'node:assert/strict'
import { after, describe, test } from 'node:test'
import { caller, type Response } from '../http/testing.ts'
import { audit } from '../testing/audit.ts'
import { until } from '../testing/until.ts'
import { drive } from './drive.ts'
import type { Fault } from './faults.ts'
import { createMatrixWorld } from './world.ts'

const world = await createMatrixWorld()
after(() => world.close())

const INSTANCE = { region: 'us-east-1', plan: 'micro-1x', image: 'micro-linux' }
/** The faults of a transaction, and whether it is committed in spite of them. */
const OUTCOMES: [Fault, committed: boolean][] = [
  ['fails_before', false],
  ['reply_lost', true],
  ['killed_before', false],
  ['killed_after', true],
]

type Write = { name: string; from: 'nothing' | 'running' | 'stopped'; make: (id: string) => [string, string, unknown?] }
const act = (action: string, from: 'running' | 'stopped'): Write => {
  return { name: action, from, make: (id) => ['POST', `/v2/instances/${id}/actions/${action}`, {}] }
}
const WRITES: Write[] = [
  {
    name: 'create',
    from: 'nothing',
    make: () => ['POST', '/v2/instances', { ...INSTANCE, network: { assign_public_ip: true } }],
  },
  ...[act('stop', 'running'), act('reboot', 'running'), act('rebuild', 'running'), act('start', 'stopped')],
  {
    name: 'update',
    from: 'running',
    make: (id) => ['PUT', `/v2/instances/${id}`, { name: 'other', tags: { a: 'b' } }],
  },
  { name: 'terminate', from: 'running', make: (id) => ['DELETE', `/v2/instances/${id}`] },
  {
    name: 'subnet',
    from: 'nothing',
    make: () => ['POST', '/v2/subnets', { region: 'us-east-1', name: 's', cidr: '172.20.0.0/24' }],
  },
  { name: 'key', from: 'nothing', make: () => ['POST', '/v2/api_keys', { name: 'ci', scopes: ['instances:read'] }] },
]

describe('a retry after a fault around the commit takes effect once', () => {
  for (const write of WRITES)
    for (const [fault, committed] of OUTCOMES) {
      test(`${write.name}: ${fault}`, () => run(write, fault, committed))
    }
})

let count = 0
async function run({ name, from, make }: Write, fault: Fault, committed: boolean): Promise<void> {
  const { owner, faults } = world
  const { key, principal } = (await world.tenant()).test
  const { environment_id } = principal
  const call = caller(world.app, key)
  const worker = await world.worker('worker')
  const settle = () => drive(world, worker, environment_id, 300)
  let id = ''
  if (from !== 'nothing') {
    id = (await call('POST', '/v2/instances', INSTANCE)).body.id
    await settle()
    if (from === 'stopped') await call('POST', `/v2/instances/${id}/actions/stop`)
    await settle()
  }
  const written = async () => {
    const [row] = await owner<{ entries: number; events: number }[]>`
      select (select count(*) from audit_log where environment_id = ${environment_id}) as entries,
        (select count(*) from events where environment_id = ${environment_id}) as events`
    return { ...row! }
  }
  const before = await written()

  const [method, path, body] = make(id)
  const headers = { 'idempotency-key': `${name}-${fault}` }
  const request = `request ${++count}`
  const subject = faults.arm(request, { point: 'transaction', nth: 1, fault })
  const first = faults.within(request, () => caller(world.faulty_app, key)(method, path, body, headers))
  let response: Response | null = null
  first.then(
    (received) => (response = received),
    () => {},
  )
  await until('the fault has occurred', () => subject.fired && (faults.lost.size > 0 || response !== null))
  faults.lost.clear()
  const firstResponse = response as Response | null
  assert.equal(firstResponse?.status, fault.startsWith('killed') ? undefined : 503)
  const between = await written()
  assert.equal(between.entries - before.entries, committed ? 1 : 0)

  // The transaction of a killed process may be open for a moment.
  let second: Response | undefined
  await until('the retry gets its response', async () => {
    second = await call(method, path, body, headers)
    return second.status !== 409 || second.body.code !== 'idempotency_in_flight'
  })
  assert.ok(second!.status < 300, `${second!.status} ${JSON.stringify(second!.body)}`)
  const replayed = method === 'POST' && committed
  assert.equal(second!.headers['idempotent-replayed'], replayed ? 'true' : undefined)
  if (committed) assert.deepEqual(await written(), between)
  assert.equal((await written()).entries - before.entries, 1)
  const stored = await owner`select from idempotency_keys where environment_id = ${environment_id}`
  assert.equal(stored.count, method === 'POST' ? 1 : 0)
  await settle()
  await worker.engine.stop(1_000)
  assert.deepEqual(await audit(owner, environment_id), [])
}
