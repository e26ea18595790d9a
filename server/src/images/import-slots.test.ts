import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { createTestApp, createTestTenant } from '../http/testing.ts'
import { takeImportSlot } from './import-slots.ts'
import { loadImage, recordImport } from './store.ts'

const { app, deps, owner, live } = await createTestApp()
after(() => app.close())
const others = await createTestTenant(deps)
const more = await createTestTenant(deps)

const LIMITS = { imports_per_host: 4, imports_per_project: 2 }

let made = 0
/** An image of a project that waits for its import. */
async function image(environment_id: string) {
  const id = `img_${String(++made).padStart(10, '0')}`
  await owner`
    insert into images (id, environment_id, name, description, source, ready_signal, ssh_user, created_at, wanted_import)
    values (${id}, ${environment_id}, ${id}, '', '{"kind":"url"}', 'guest', 'root', now(), 1)`
  return (await loadImage(deps.sql.as(environment_id), id))!
}

/** Tries to begin the import of a new image of a project. */
async function start(environment_id: string): Promise<boolean> {
  const row = await image(environment_id)
  return deps.sql.as(environment_id).begin(async (tx) => {
    if (!(await takeImportSlot(tx, LIMITS, row.id))) return false
    await recordImport(tx, row, { state: 'importing', progress: null, error: null, manifest: null })
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
  assert.equal(own.filter((begins) => begins).length, LIMITS.imports_per_project)
  assert.deepEqual([await start(b), await start(b), await start(b)], [true, true, false])
  assert.equal(await start(c), false)
  await owner`update images set observed_state = 'failed' where environment_id = ${a}`
  assert.equal(await start(c), true)
})
