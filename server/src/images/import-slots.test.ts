import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { createTestApp, createTestTenant } from '../http/testing.ts'
import { IMPORT_SLOTS, startInSlot } from './import-slots.ts'
import { loadImage, recordImport } from './store.ts'

const { app, deps, owner, live } = await createTestApp()
after(() => app.close())
const others = await createTestTenant(deps)
const more = await createTestTenant(deps)

let made = 0
/** An image of a project that waits for its import. */
async function image(environment_id: string) {
  const id = `img_${String(++made).padStart(10, '0')}`
  await owner`
    insert into images (id, environment_id, name, description, source, ready_signal, ssh_user, created_at, wanted_import)
    values (${id}, ${environment_id}, ${id}, '', '{"kind":"url"}', 'guest', 'root', now(), 1)`
  return (await loadImage(deps.sql.as(environment_id), id))!
}

/** Tries to start the import of a new image of a project. */
async function start(environment_id: string): Promise<string> {
  const row = await image(environment_id)
  return startInSlot(deps.sql.as(environment_id), row, async () => {
    const begun = { state: 'importing' as const, progress: null, error: null, manifest: null }
    await deps.sql.as(environment_id).begin((tx) => recordImport(tx, row, begun))
    return true
  })
}

test('starts at most two imports of a project and four of the host at once; the rest waits', async () => {
  const [a, b, c] = [live, others.live, more.live].map(({ principal }) => principal.environment_id) as [
    string,
    string,
    string,
  ]
  const own = await Promise.all(Array.from({ length: 40 }, () => start(a)))
  assert.equal(own.filter((result) => result === 'started').length, IMPORT_SLOTS.per_project)
  assert.ok(own.every((result) => result === 'started' || result === 'wait'))
  assert.deepEqual([await start(b), await start(b), await start(b)], ['started', 'started', 'wait'])
  assert.equal(await start(c), 'wait')
  await owner`update images set observed_state = 'failed' where environment_id = ${a}`
  assert.equal(await start(c), 'started')
})

test('an import that is refused leaves its slot free', async () => {
  await owner`update images set observed_state = 'failed'`
  const row = await image(live.principal.environment_id)
  assert.equal(await startInSlot(deps.sql.as(live.principal.environment_id), row, async () => false), 'refused')
  assert.equal(await start(live.principal.environment_id), 'started')
})
