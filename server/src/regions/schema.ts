import { Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { OneOf } from '../http/schemas.ts'

const Size = Type.Object(
  {
    vcpus: Type.Integer({ description: 'Virtual CPUs.' }),
    memory_bytes: Type.Integer({ description: 'Memory, each instance with 128 MiB for its machine.' }),
    disk_bytes: Type.Integer({ description: 'Disks at their full size.' }),
  },
  { description: 'An amount of what instances take.', additionalProperties: false },
)

export const Region = Type.Object(
  {
    id: Type.String({ description: 'Identifier.', examples: ['us-east-1'] }),
    name: Type.String({ description: 'Name for people.', examples: ['US East 1'] }),
    status: OneOf(['available'], 'Whether instances can be made there.'),
    hypervisor: Type.Object(
      {
        name: Type.String({ description: 'What runs the machines.', examples: ['qemu'] }),
        accelerator: OneOf(['kvm', 'tcg', 'none'], 'What executes their instructions: the CPU, or a translator.'),
        reason: Type.String({ description: 'How that was found out.', examples: ['The tiny guest booted with it.'] }),
      },
      { description: 'What serves the environment of the key there.', additionalProperties: false },
    ),
    capacity: Type.Union(
      [
        Type.Object(
          { total: Size, used: Size },
          {
            description: 'What the region can hold, and what its instances have reserved.',
            additionalProperties: false,
          },
        ),
        Type.Null({ description: 'Without limit.' }),
      ],
      { description: 'Null where there is no limit (test environments).' },
    ),
  },
  { $id: 'Region', description: 'A place where instances run.', additionalProperties: false },
)

export const RegionPage = PageOf(Region)
