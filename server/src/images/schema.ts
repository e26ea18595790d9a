import { Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Nullable, OneOf, Text, Timestamp } from '../http/schemas.ts'

const name = Type.String({
  pattern: '^(?!img_)[a-z0-9][a-z0-9._-]{0,62}$',
  'x-rule': '1 to 63 of a-z, 0-9, ".", "_" and "-", starting with a letter or digit and not with img_',
  description: 'Unique name. The `image` field of an instance accepts it in place of the ID.',
  examples: ['ubuntu-22.04-lts'],
})
const readySignal = OneOf(
  ['guest', 'process'],
  '`guest`: the guest itself signals that it is ready. `process`: an instance is running as soon as its machine runs.',
)
const sshUser = Type.String({
  pattern: '^[a-z_][a-z0-9_-]{0,31}$',
  'x-rule': 'a user name of the guest: a-z, 0-9, "_" and "-", at most 32 characters',
  description: 'User of the guest for whom the SSH keys of an instance are installed.',
  examples: ['root'],
})
const bytes = (description: string) => Nullable(Type.Integer({ minimum: 0, description }))

const Progress = Type.Object(
  {
    phase: Type.String({
      description:
        'Current phase: `waiting_for_upload`, `waiting` (for one of the imports that run at once; by default 4 per host, 2 per project), `downloading`, `verifying`, `converting` or `building`.',
      examples: ['downloading'],
    }),
    percent: Nullable(
      Type.Integer({
        minimum: 0,
        maximum: 100,
        description: 'Percentage of this phase that is complete; null if unknown.',
      }),
    ),
    done_bytes: bytes('Bytes received so far.'),
    total_bytes: bytes('Total size in bytes; null if unknown.'),
  },
  { additionalProperties: false },
)

export const Image = Type.Object(
  {
    id: Id('img', 'Identifier.'),
    name,
    description: Type.String({ description: 'Description of the image.', examples: ['Ubuntu 22.04 LTS'] }),
    status: OneOf(['available', 'importing', 'failed'], 'Whether instances can be created from it.'),
    cached: Type.Boolean({
      description: 'Whether the image is on the host. If not, the first instance waits for its import.',
    }),
    progress: Type.Union([Progress, Type.Null()], {
      description: 'Progress of the import; null when none is running.',
    }),
    error: Type.Union(
      [
        Type.Object(
          {
            code: Type.String({ description: 'Stable error code.' }),
            message: Type.String({ description: 'What failed and how to resolve it.' }),
          },
          { additionalProperties: false },
        ),
        Type.Null(),
      ],
      {
        description:
          'Why the last import failed; null otherwise. Creating an instance from the image retries the import.',
      },
    ),
    ready_signal: readySignal,
    ssh_user: sshUser,
    source: Type.Object(
      {
        kind: OneOf(
          ['recipe', 'publisher', 'url', 'upload'],
          '`recipe`: built on the host. `publisher`: downloaded from its publisher. `url` and `upload`: added by a request.',
        ),
        url: Nullable(Type.String({ description: 'URL that the image was added from, without its query string.' })),
      },
      { description: 'Where the image comes from.', additionalProperties: false },
    ),
    virtual_size_bytes: bytes('Size of the disk as a guest sees it; null until the image is on the host.'),
    is_catalog: Type.Boolean({ description: 'Whether the image belongs to the installation and cannot be deleted.' }),
    created_at: Timestamp('When the image was added.'),
  },
  { $id: 'Image', description: 'A disk image that instances are created from.', additionalProperties: false },
)

export const ImagePage = PageOf(Image)

export const ImageCreate = Type.Object(
  {
    name: { ...name, examples: ['app-server'] },
    source: Type.Optional({
      ...OneOf(
        ['url', 'upload'],
        '`url`: download the image from `url`. `upload`: the content is uploaded with PUT afterwards.',
      ),
      default: 'url',
    }),
    url: Type.Optional(
      Text({
        maxLength: 2048,
        description: 'http or https URL of a bootable qcow2 or raw disk. Required unless `source` is "upload".',
        examples: ['https://images.example.com/app-server.qcow2'],
      }),
    ),
    sha256: Type.Optional(
      Type.String({
        pattern: '^[0-9a-fA-F]{64}$',
        'x-rule': '64 hexadecimal digits',
        description: 'SHA-256 checksum of the file. Required with `url`.',
        examples: ['9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'],
      }),
    ),
    description: Type.Optional(Text({ maxLength: 255, description: 'Description of the image.' })),
    ready_signal: Type.Optional({ ...readySignal, default: 'process' }),
    ssh_user: Type.Optional({ ...sshUser, default: 'root' }),
  },
  {
    $id: 'ImageCreate',
    description: 'An image to add.',
    additionalProperties: false,
    if: { properties: { source: { const: 'upload' } }, required: ['source'] },
    // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
    then: { properties: { url: false } },
    else: { properties: { url: true, sha256: true }, required: ['url', 'sha256'] },
  },
)

export const imageFilters = {
  ...listParameters,
  name: Type.Optional(Text({ maxLength: 63, description: 'Only the image with this name.' })),
}
