import { Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { Hypervisor, OneOf, RegionCapacity } from '../http/schemas.ts'

export const Region = Type.Object(
  {
    id: Type.String({ description: 'Identifier.', examples: ['us-east-1'] }),
    name: Type.String({ description: 'Name for people.', examples: ['US East 1'] }),
    status: OneOf(['available'], 'Whether instances can be made there.'),
    hypervisor: Hypervisor,
    capacity: Type.Union([RegionCapacity, Type.Null({ description: 'Without limit.' })], {
      description: 'Null where there is no limit (test environments).',
    }),
  },
  { $id: 'Region', description: 'A place where instances run.', additionalProperties: false },
)

export const RegionPage = PageOf(Region)
