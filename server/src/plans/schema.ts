import { Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { Nullable } from '../http/schemas.ts'

export const Plan = Type.Object(
  {
    id: Type.String({ description: 'ID of the plan.', examples: ['standard-4x'] }),
    vcpus: Type.Integer({ description: 'Virtual CPUs.', examples: [4] }),
    memory_bytes: Type.Integer({ description: 'Memory of the guest.', examples: [8589934592] }),
    disk_bytes: Type.Integer({ description: 'Size of the disk.', examples: [42949672960] }),
    available: Type.Boolean({ description: 'Whether any region has enough total capacity for the plan.' }),
    unavailable_reason: Nullable(Type.String({ description: 'Why the plan is not available; null if it is.' })),
  },
  { $id: 'Plan', description: 'A machine size.', additionalProperties: false },
)

export const PlanPage = PageOf(Plan)
