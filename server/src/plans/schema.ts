import { Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { Nullable } from '../http/schemas.ts'

export const Plan = Type.Object(
  {
    id: Type.String({ description: 'Identifier.', examples: ['standard-4x'] }),
    vcpus: Type.Integer({ description: 'Virtual CPUs.', examples: [4] }),
    memory_bytes: Type.Integer({ description: 'Memory of the guest.', examples: [8589934592] }),
    disk_bytes: Type.Integer({ description: 'Size of its disk.', examples: [42949672960] }),
    available: Type.Boolean({ description: 'Whether any region is large enough for it.' }),
    unavailable_reason: Nullable(Type.String({ description: 'Why it is not available; null when it is.' })),
  },
  { $id: 'Plan', description: 'A size of instances.', additionalProperties: false },
)

export const PlanPage = PageOf(Plan)
