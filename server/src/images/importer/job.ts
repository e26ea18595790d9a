/** What one import is to do: the input file of the importer, written once by the control plane. */
import Type, { type Static } from 'typebox'
import { Value } from 'typebox/value'
import { parseRange } from '../../lib/outbound.ts'

const absolutePath = Type.String({ pattern: '^/[^\\0]*$', maxLength: 4096 })
const sha256 = Type.String({ pattern: '^[0-9a-fA-F]{64}$', description: 'Of the source file, hexadecimal' })
const url = Type.String({ minLength: 1, maxLength: 4096 })
// A plain name: it becomes the last segment of an address, and part of messages.
const fileName = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._+~-]{0,254}$' })

const disk = {
  max_virtual_size_bytes: Type.Integer({ minimum: 512, description: 'Limit of the disk as a guest sees it' }),
  ready_signal: Type.Union([Type.Literal('guest'), Type.Literal('process')]),
  ssh_user: Type.Union([Type.String({ pattern: '^[a-z_][a-z0-9_-]{0,31}$' }), Type.Null()]),
}
const download = {
  ...disk,
  max_bytes: Type.Integer({ minimum: 1, description: 'Limit of the source file' }),
  allowed_addresses: Type.Array(Type.String(), { description: 'CIDRs allowed beyond public unicast' }),
  stall_timeout_seconds: Type.Number({ exclusiveMinimum: 0, maximum: 3600, description: 'Usually 60' }),
}
const closed = { additionalProperties: false }

/** A disk at an address, with the checksum its owner gave. */
const urlJob = Type.Object({ kind: Type.Literal('url'), url, sha256, ...download }, closed)

/** A disk of a publisher's mirror directory, vouched for by a signed list of checksums. */
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

/** A file that is already on this host. It is read in place, and lent to the unprivileged user that converts it. */
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

/** A build script of ours that makes disk.qcow2 and manifest.json (see images/) on this host. */
const recipeJob = Type.Object(
  {
    kind: Type.Literal('recipe'),
    script: absolutePath,
    silence_timeout_seconds: Type.Optional(Type.Number({ exclusiveMinimum: 0, description: '600 unless given' })),
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

/** Validates a job, address ranges included. Throws TypeError that names the first wrong field. */
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
