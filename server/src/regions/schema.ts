import { Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { Hypervisor, OneOf, RegionCapacity } from '../http/schemas.ts'

const Isolation = Type.Object(
  {
    egress: OneOf(
      ['filtered', 'unfiltered'],
      'What guests can reach. `filtered`: the public internet, DNS and what the operator allows. `unfiltered`: also the services and private networks of the host.',
    ),
    process_limits: OneOf(
      ['cgroup', 'none'],
      'Whether cgroups limit the threads, the memory and the CPU weight of the process of each machine.',
    ),
    reason: Type.String({ description: 'How guests are isolated.', examples: ['nftables filters what guests send'] }),
  },
  { description: 'How guests are isolated from the host and its networks.', additionalProperties: false },
)

export const Region = Type.Object(
  {
    id: Type.String({ description: 'ID of the region.', examples: ['us-east-1'] }),
    name: Type.String({ description: 'Display name.', examples: ['US East 1'] }),
    status: OneOf(
      ['available', 'unavailable'],
      'Whether the project can create instances in the region. It is `unavailable` to projects other than that of the operator where what guests send is not filtered.',
    ),
    hypervisor: Hypervisor,
    isolation: Type.Union([Isolation, Type.Null({ description: 'There are no guests.' })], {
      description: 'Null in test environments.',
    }),
    capacity: Type.Union([RegionCapacity, Type.Null({ description: 'No limit.' })], {
      description: 'Null if there is no limit (test environments).',
    }),
  },
  { $id: 'Region', description: 'A location where instances run.', additionalProperties: false },
)

export const RegionPage = PageOf(Region)
