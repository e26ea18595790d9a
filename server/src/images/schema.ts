import { Type } from 'typebox'
import { listParameters, PageOf } from '../http/list.ts'
import { Id, Nullable, OneOf, Text, Timestamp } from '../http/schemas.ts'

const name = Type.String({
  pattern: '^(?!img_)[a-z0-9][a-z0-9._-]{0,62}$',
  'x-rule': '1 to 63 of a-z, 0-9, ".", "_" and "-", beginning with a letter or digit and not with img_',
  description: 'Unique name, which `image` of an instance may be instead of the id.',
  examples: ['ubuntu-22.04-lts'],
})
const readySignal = OneOf(
  ['guest', 'process'],
  '`guest`: the guest itself says when it is up. `process`: an instance counts as running as soon as its machine runs.',
)
const sshUser = Type.String({
  pattern: '^[a-z_][a-z0-9_-]{0,31}$',
  'x-rule': 'a user name of the guest: a-z, 0-9, "_" and "-", at most 32',
  description: 'User that the ssh keys of an instance are for.',
  examples: ['root'],
})
const bytes = (description: string) => Nullable(Type.Integer({ minimum: 0, description }))

const Progress = Type.Object(
  {
    phase: Type.String({
      description:
        'What is being done: `waiting_for_upload`, `waiting`, `downloading`, `verifying`, `converting` or `building`.',
      examples: ['downloading'],
    }),
    percent: Nullable(Type.Integer({ minimum: 0, maximum: 100, description: 'Of this phase; null while unknown.' })),
    done_bytes: bytes('Bytes that are here.'),
    total_bytes: bytes('Bytes in all; null while unknown.'),
  },
  { additionalProperties: false },
)

export const Image = Type.Object(
  {
    id: Id('img', 'Identifier.'),
    name,
    description: Type.String({ description: 'What it is.', examples: ['Ubuntu 22.04 LTS'] }),
    status: OneOf(['available', 'importing', 'failed'], 'Whether instances can be made from it.'),
    cached: Type.Boolean({ description: 'Whether it is on the host; if not, the first instance waits for it.' }),
    progress: Type.Union([Progress, Type.Null()], { description: 'How far an import is; null while there is none.' }),
    error: Type.Union(
      [
        Type.Object(
          {
            code: Type.String({ description: 'Stable code.' }),
            message: Type.String({ description: 'What failed, and what to do.' }),
          },
          { additionalProperties: false },
        ),
        Type.Null(),
      ],
      { description: 'Why the last import failed; null otherwise. An instance made from it tries again.' },
    ),
    ready_signal: readySignal,
    ssh_user: sshUser,
    source: Type.Object(
      {
        kind: OneOf(['recipe', 'publisher', 'url', 'upload'], 'Built here, downloaded from a publisher, or added.'),
        url: Nullable(Type.String({ description: 'Address that it was added from, without its query string.' })),
      },
      { description: 'Where it comes from.', additionalProperties: false },
    ),
    virtual_size_bytes: bytes('Size of the disk as a guest sees it; null until it is on the host.'),
    is_catalog: Type.Boolean({ description: 'Whether it belongs to the installation and cannot be removed.' }),
    created_at: Timestamp('When it was added.'),
  },
  { $id: 'Image', description: 'A disk that instances start from.', additionalProperties: false },
)

export const ImagePage = PageOf(Image)

export const ImageCreate = Type.Object(
  {
    name: { ...name, examples: ['app-server'] },
    source: Type.Optional({
      ...OneOf(['url', 'upload'], '`url`: download it from `url`. `upload`: its content is sent by PUT afterwards.'),
      default: 'url',
    }),
    url: Type.Optional(
      Text({
        maxLength: 2048,
        description: 'http or https address of a qcow2 or raw disk that boots by itself. Required unless uploaded.',
        examples: ['https://images.example.com/app-server.qcow2'],
      }),
    ),
    sha256: Type.Optional(
      Type.String({
        pattern: '^[0-9a-fA-F]{64}$',
        'x-rule': '64 hexadecimal digits',
        description: 'Checksum of the file. Required with `url`.',
        examples: ['9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'],
      }),
    ),
    description: Type.Optional(Text({ maxLength: 255, description: 'What it is.' })),
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
  name: Type.Optional(Text({ maxLength: 63, description: 'Only the image of this name.' })),
}
