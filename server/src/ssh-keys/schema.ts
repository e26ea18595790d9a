import { Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { Id, Text, Timestamp } from '../http/schemas.ts'

const name = Text({
  minLength: 1,
  maxLength: 63,
  description: 'Display name. Need not be unique.',
  examples: ['laptop'],
})
const isDefault = Type.Boolean({
  description: 'Whether new instances get this key if the request does not list SSH keys.',
})

export const SshKey = Type.Object(
  {
    id: Id('ssh', 'ID of the SSH key.'),
    name,
    public_key: Type.String({
      description: 'Key in the format of OpenSSH: type, base64, comment.',
      examples: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJAvUz5v+WDvi0MkJzWKBLmY1XlFT1gqZp9Q9eS1oezI me@laptop'],
    }),
    fingerprint: Type.String({
      description: 'SHA-256 of the key, as `ssh-keygen -l` prints it.',
      examples: ['SHA256:tOoR+J72TEHlgc8v6VaciMFIR4hkGHkBkbNxJGym1Ns'],
    }),
    default: isDefault,
    created_at: Timestamp('When the key was added.'),
  },
  {
    $id: 'SshKey',
    description: 'A public key that can log in to the instances created with it.',
    additionalProperties: false,
  },
)

export const SshKeyPage = PageOf(SshKey)

export const SshKeyCreate = Type.Object(
  {
    name,
    public_key: Type.String({
      minLength: 1,
      maxLength: 16_384,
      description:
        'Line of an OpenSSH .pub file: Ed25519, ECDSA, RSA of at least 2048 bits, or a security key (`sk-`).',
      examples: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJAvUz5v+WDvi0MkJzWKBLmY1XlFT1gqZp9Q9eS1oezI me@laptop'],
    }),
    default: Type.Optional({ ...isDefault, default: false }),
  },
  { $id: 'SshKeyCreate', description: 'A key to add.', additionalProperties: false },
)

export const SshKeyUpdate = Type.Object(
  { name: Type.Optional(name), default: Type.Optional(isDefault) },
  {
    $id: 'SshKeyUpdate',
    description: 'Changes to an SSH key. Omitted fields keep their values.',
    additionalProperties: false,
  },
)
