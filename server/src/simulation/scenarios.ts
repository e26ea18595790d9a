/** THE LIST of scenarios: each was once a failure that a seed found. */
import assert from 'node:assert/strict'
import type { Driver } from '../drivers/driver.ts'
import type { Mutant } from './mutants.ts'
import { crash, error, pauseBefore, type Scenario } from './script.ts'

const PUBLIC = { network: { assign_public_ip: true } }
const WITHOUT_ADDRESS = { network: { assign_public_ip: false } }
const RELEASE_JOB = 'release-addresses'
/** Longer than the resync interval of simulated machines. */
const RESYNC_SECONDS = 3_700

/** The statement of the job that releases addresses, without one of its conditions. */
const releasesWithout = (condition: RegExp): Mutant => ({
  rewrite: ({ text, values }) => ({
    text: text.includes('delete from addresses a using instances') ? text.replace(condition, '') : text,
    values,
  }),
})

/** A driver that executes calls of steps whose key another worker has claimed since. */
const unfenced: Mutant = {
  driver: (driver) =>
    new Proxy(driver, {
      get(target, name: keyof Driver) {
        const method = target[name]
        if (typeof method !== 'function') return method
        return (first: unknown, ...rest: unknown[]) => {
          const argument = typeof first === 'object' ? { ...first, lease: undefined } : first
          return (method as (...args: unknown[]) => unknown).call(target, argument, ...rest)
        }
      },
    }),
}

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'an address is not released while a step may be starting a machine with it',
    async play({ create, pass, request, resume }) {
      const id = await create(PUBLIC)
      await pass(0, id)
      await pass(0, id, pauseBefore('start'))
      await request('PATCH', `/v2/instances/${id}`, WITHOUT_ADDRESS)
      await pass(0, RELEASE_JOB)
      await resume(0)
      await create(PUBLIC)
    },
    detects: {
      mutant: releasesWithout(/w\.leased_until is null and w\.due_at > environment_now\(i\.environment_id\)\s+and/),
      invariant: 'I2',
    },
  },
  {
    name: 'an address is not released while the result of a start is unknown',
    async play({ create, pass, request }) {
      const id = await create(PUBLIC)
      await pass(0, id)
      await pass(0, id, error('after', 'start'))
      await request('PATCH', `/v2/instances/${id}`, WITHOUT_ADDRESS)
      await pass(0, RELEASE_JOB)
      await create(PUBLIC)
    },
    detects: { mutant: releasesWithout(/and w\.due_at > environment_now\(i\.environment_id\)/), invariant: 'I2' },
  },
  {
    name: 'a late step starts no machine with an address that was released',
    async play({ create, pass, request, resume, until, expireLease }) {
      const id = await create(PUBLIC)
      await pass(0, id)
      await pass(0, id, pauseBefore('start'))
      await expireLease()
      await until(1, id, 'running')
      await request('POST', `/v2/instances/${id}/actions/stop`, { force: true })
      await request('PATCH', `/v2/instances/${id}`, WITHOUT_ADDRESS)
      await until(1, id, 'stopped')
      await create(PUBLIC)
      await resume(0)
    },
    detects: { mutant: unfenced, invariant: 'I2' },
  },
  {
    name: 'an instance that a late step started after it was stopped is stopped again',
    variant: unfenced,
    async play({ create, pass, request, resume, until, expireLease, expectPower }) {
      const id = await create()
      await pass(0, id)
      await pass(0, id, pauseBefore('start'))
      await expireLease()
      await until(1, id, 'running')
      await request('POST', `/v2/instances/${id}/actions/stop`, { force: true })
      await until(1, id, 'stopped')
      await resume(0)
      await expectPower(id, 'running')
      await until(1, id, 'stopped')
      await expectPower(id, 'stopped')
    },
  },
  {
    name: 'a simulated machine that is off does not fail later',
    async play({ create, request, until, pass, advance }) {
      const id = await create({ tags: { simulate: 'hang_once' } })
      await until(0, id, 'running')
      await request('POST', `/v2/instances/${id}/actions/stop`)
      await until(0, id, 'stopped')
      const { version } = await request('GET', `/v2/instances/${id}`)
      await advance(RESYNC_SECONDS)
      await pass(0, id)
      assert.equal((await request('GET', `/v2/instances/${id}`)).version, version)
    },
  },
  {
    name: 'a webhook whose endpoint returned 410 is disabled although the process crashed after it',
    async play({ create, createGoneWebhook, pass }) {
      const id = await createGoneWebhook()
      await create()
      await pass(0, id, crash('after', 'transaction'))
    },
  },
]
