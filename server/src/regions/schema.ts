import { Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { Hypervisor, OneOf, RegionCapacity } from '../http/schemas.ts'

export const Region = Type.Object(
  {
    id: Type.String({ description: 'ID of the region.', examples: ['us-east-1'] }),
    name: Type.String({ description: 'Display name.', examples: ['US East 1'] }),
    status: OneOf(['available'], 'Whether instances can be created in the region.'),
    hypervisor: Hypervisor,
    capacity: Type.Union([RegionCapacity, Type.Null({ description: 'No limit.' })], {
      description: 'Null if there is no limit (test environments).',
    }),
  },
  { $id: 'Region', description: 'A location where instances run.', additionalProperties: false },
)

export const RegionPage = PageOf(Region)
