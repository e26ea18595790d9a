import { Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Text, Timestamp } from '../http/schemas.ts'

const name = Text({ minLength: 1, maxLength: 63, description: 'Name for people.', examples: ['backend'] })
const region = Text({ maxLength: 64, description: 'Region that it is in.', examples: ['us-east-1'] })
const cidr = Text({ maxLength: 18, description: 'Range of its private addresses.', examples: ['10.1.0.0/24'] })

export const Subnet = Type.Object(
  {
    id: Id('sub', 'Identifier. `sub_8f7e6d5c4b` is the default subnet of every environment.'),
    name,
    region,
    cidr,
    is_default: Type.Boolean({ description: 'Whether instances that name no subnet are put here.' }),
    created_at: Timestamp('When it was made.'),
  },
  {
    $id: 'Subnet',
    description: 'A private network: its instances reach each other, and no others, by their private addresses.',
    additionalProperties: false,
  },
)

export const SubnetPage = PageOf(Subnet)

export const SubnetCreate = Type.Object(
  {
    region,
    name,
    cidr: {
      ...cidr,
      description:
        'Private range (RFC 1918), from /16 to /28, that no other subnet of the environment overlaps. The first two addresses and the last are not given to instances.',
    },
  },
  { $id: 'SubnetCreate', description: 'A subnet to make.', additionalProperties: false },
)

export const subnetFilters = {
  ...listParameters,
  region: Type.Optional(Text({ maxLength: 200, description: 'Only of these regions, by comma.' })),
}
