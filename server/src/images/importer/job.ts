/** The job of an import: the input file of the importer, written by the control plane. */
import Type, { type Static } from 'typebox'
import { Value } from 'typebox/value'
import { parseRange } from '../../lib/outbound.ts'

const absolutePath = Type.String({ pattern: '^/[^\\0]*$', maxLength: 4096 })
const sha256 = Type.String({ pattern: '^[0-9a-fA-F]{64}$', description: 'SHA-256 of the source file, hexadecimal' })
const url = Type.String({ minLength: 1, maxLength: 4096 })
// Becomes the last segment of a URL and part of messages.
const fileName = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._+~-]{0,254}$' })

const disk = {
  max_virtual_size_bytes: Type.Integer({ minimum: 512, description: 'Maximum size of the disk as a guest sees it' }),
  ready_signal: Type.Union([Type.Literal('guest'), Type.Literal('process')]),
  ssh_user: Type.Union([Type.String({ pattern: '^[a-z_][a-z0-9_-]{0,31}$' }), Type.Null()]),
}
const download = {
  ...disk,
  max_bytes: Type.Integer({ minimum: 1, description: 'Maximum size of the source file' }),
  allowed_addresses: Type.Array(Type.String(), { description: 'CIDR ranges allowed in addition to public addresses' }),
  stall_timeout_seconds: Type.Number({ exclusiveMinimum: 0, maximum: 3600, description: 'Default: 60' }),
}
const closed = { additionalProperties: false }

/** A disk at a URL, with the checksum of the request. */
const urlJob = Type.Object({ kind: Type.Literal('url'), url, sha256, ...download }, closed)

/** A disk in a publisher's mirror directory, verified by a signed list of checksums. */
const publisherJob = Type.Object(
  {
    kind: Type.Literal('publisher'),
    base_url: url,
    sums_name: fileName,
    signature_name: fileName,
    file_name: fileName,
    keyring: Type.Union([absolutePath, url], { description: 'Public keys: a file on this host, or a URL' }),
    fingerprints: Type.Array(Type.String({ pattern: '^[0-9a-fA-F]{40}$' }), { minItems: 1 }),
    ...download,
  },
  closed,
)

/** A file on this host. It is read in place; the unprivileged user that converts it gets temporary access. */
const uploadJob = Type.Object(
  {
    kind: Type.Literal('upload'),
    path: absolutePath,
    sha256: Type.Optional(sha256),
    max_bytes: Type.Integer({ minimum: 1 }),
    ...disk,
  },
  closed,
)

/** A build script of the project that creates disk.qcow2 and manifest.json (see images/) on this host. */
const recipeJob = Type.Object(
  {
    kind: Type.Literal('recipe'),
    script: absolutePath,
    silence_timeout_seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0, description: 'Default: 600' })),
  },
  closed,
)

/** The file `job.json`. */
export const jobSchema = Type.Union([urlJob, publisherJob, uploadJob, recipeJob])

export type UrlJob = Static<typeof urlJob>
export type PublisherJob = Static<typeof publisherJob>
export type UploadJob = Static<typeof uploadJob>
export type RecipeJob = Static<typeof recipeJob>
export type Job = Static<typeof jobSchema>

/** Validates a job, including its address ranges. Throws TypeError with the first invalid field. */
export function parseJob(value: unknown): Job {
  const kinds = { url: urlJob, publisher: publisherJob, upload: uploadJob, recipe: recipeJob }
  const kind = (value as { kind?: unknown } | null)?.kind
  if (typeof kind !== 'string' || !Object.hasOwn(kinds, kind)) throw new TypeError('job: unknown kind')
  const [error] = Value.Errors(kinds[kind as Job['kind']], value)
  if (error !== undefined) throw new TypeError(`job: ${error.instancePath || kind} ${error.message}`)
  const job = value as Job
  if ('allowed_addresses' in job) for (const range of job.allowed_addresses) parseRange(range)
  return job
}
