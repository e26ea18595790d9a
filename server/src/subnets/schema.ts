import { Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Text, Timestamp } from '../http/schemas.ts'

const name = Text({
  minLength: 1,
  maxLength: 63,
  description: 'Display name. Need not be unique.',
  examples: ['backend'],
})
const region = Text({ maxLength: 64, description: 'Region of the subnet.', examples: ['us-east-1'] })
const cidr = Text({ maxLength: 18, description: 'Range of private IP addresses.', examples: ['10.1.0.0/24'] })

export const Subnet = Type.Object(
  {
    id: Id('sub', 'ID of the subnet. `sub_8f7e6d5c4b` is the default subnet of every environment.'),
    name,
    region,
    cidr,
    is_default: Type.Boolean({
      description: 'Whether new instances are placed here if the request does not name a subnet.',
    }),
    created_at: Timestamp('When the subnet was created.'),
  },
  {
    $id: 'Subnet',
    description:
      'A private network. Instances reach only other instances of the same subnet by their private IP addresses.',
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
        'Private range (RFC 1918) from /16 to /28. It must not overlap other subnets of the environment. The first two IP addresses and the last are reserved.',
    },
  },
  { $id: 'SubnetCreate', description: 'A subnet to create.', additionalProperties: false },
)

export const subnetFilters = {
  ...listParameters,
  region: Type.Optional(Text({ maxLength: 200, description: 'Filter by region, separated by commas.' })),
}
