import type { Creation, Kind, Workflow } from '../workflow.ts'
import { REFUSED } from '../world.ts'

/** Adds an image whose import succeeds, or fails if `imports` is false. */
export function addImage({ post, nextNumber }: Creation, imports: boolean): Promise<string> {
  return post('/v2/images', {
    name: `image-${nextNumber()}`,
    url: `https://images.example.com/${imports ? 'good' : REFUSED}.qcow2`,
    sha256: 'a'.repeat(64),
    ready_signal: 'guest',
  })
}

const workflow = { mode: 'live', create: (scene: Creation) => addImage(scene, true) } as const

const workflows: Workflow[] = [
  { ...workflow, name: 'import an image', goal: 'present' },
  {
    ...workflow,
    name: 'import an image whose checksum differs',
    create: (scene) => addImage(scene, false),
    goal: 'failed',
  },
  {
    ...workflow,
    name: 'delete an image',
    from: [{ until: 'present' }],
    request: (id) => ['DELETE', `/v2/images/${id}`],
    goal: 'gone',
  },
]

export const image: Kind = {
  name: 'image',
  path: '/v2/images',
  scopes: ['images:read', 'images:write'],
  states: (owner, ids) => owner<{ id: string; state: string }[]>`
    select id, observed_state as state from images where id = any(${ids})`,
  absent: 'gone',
  deleted: 'gone',
  workflows,
}
