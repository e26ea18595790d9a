import { type Static, Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { dryRun, Id, OneOf, ref, Text, Timestamp } from '../http/schemas.ts'
import { QUOTA_NAMES, type QuotaName } from '../lib/quota.ts'

const name = Text({
  description: 'Display name. Need not be unique.',
  minLength: 1,
  maxLength: 63,
  examples: ['payments'],
})
const amount = Type.Union([Type.Integer({ minimum: 0, maximum: 2 ** 52 }), Type.Null()], {
  description:
    'Maximum; null if only the capacity of the host limits it. An environment never has more than 50 webhooks.',
})
const Quota = (description: string) =>
  Type.Partial(
    Type.Object(Object.fromEntries(QUOTA_NAMES.map((each) => [each, amount])) as Record<QuotaName, typeof amount>),
    { additionalProperties: false, description, examples: [{ instances: 10, vcpus: 40 }] },
  )
const live = Quota('Quotas of the live environment.')
const test = Quota('Quotas of the test environment.')
const fields = {
  id: Id('proj', 'ID of the project.'),
  name,
  status: OneOf(
    ['active', 'deleting'],
    '`deleting`: its keys are revoked, and everything in it is being deleted; then it no longer exists.',
  ),
  quotas: Type.Object(
    { live, test },
    {
      additionalProperties: false,
      description:
        "Quotas that replace the defaults and those of the operator's configuration. `GET /v2/limits` shows those that apply.",
    },
  ),
  created_at: Timestamp('When the project was created.'),
}
const quotas = Type.Optional(
  Type.Partial(Type.Object({ live, test }), {
    additionalProperties: false,
    description:
      "Quotas that replace the defaults and those of the operator's configuration; null is no limit. All quotas of a given environment are replaced.",
  }),
)

export const Project = Type.Object(fields, {
  $id: 'Project',
  description: 'A tenant. Its resources are not accessible from other projects.',
  additionalProperties: false,
})

const once = 'Store it now: it is returned only once.'

export const ProjectCreated = Type.Object(
  {
    ...fields,
    live_key: Type.Optional(Type.String({ description: `API key of the live environment. ${once}` })),
    test_key: Type.Optional(Type.String({ description: `API key of the test environment. ${once}` })),
    secret_available: Type.Optional(
      Type.Boolean({
        description: 'False when this is the stored response of an earlier request; the keys are not stored with it.',
      }),
    ),
  },
  { $id: 'ProjectCreated', description: 'A new project and its first keys.', additionalProperties: false },
)

export const ProjectPage = PageOf(Project)

export const ProjectCreate = Type.Object(
  { name, quotas },
  {
    $id: 'ProjectCreate',
    description: 'A project to create.',
    additionalProperties: false,
    examples: [{ name: 'payments' }],
  },
)

const ignored = Type.Optional(
  Type.Unknown({ description: 'Read-only; ignored, so that the output of GET can be sent back.' }),
)

export const ProjectUpdate = Type.Object(
  { name: Type.Optional(name), quotas, id: ignored, status: ignored, created_at: ignored },
  {
    $id: 'ProjectUpdate',
    description: 'Changes to a project. Omitted fields keep their values.',
    additionalProperties: false,
    examples: [{ name: 'payments, europe' }],
  },
)
export type ProjectUpdateBody = Static<typeof ProjectUpdate>

/** What a deletion counts in each environment. */
export const COUNTED = [
  'instances',
  'images',
  'subnets',
  'public_ips',
  'ssh_keys',
  'webhooks',
  'api_keys',
  'events',
] as const
export type Counts = Record<(typeof COUNTED)[number], number>

const amounts = Object.fromEntries(COUNTED.map((each) => [each, Type.Integer()])) as Record<
  (typeof COUNTED)[number],
  ReturnType<typeof Type.Integer>
>
const counts = (environment: string) =>
  Type.Object(amounts, {
    additionalProperties: false,
    description: `What would be deleted in the ${environment} environment: instances that are not terminated, active API keys, and all events that are kept.`,
    examples: [
      { instances: 3, images: 1, subnets: 2, public_ips: 1, ssh_keys: 1, webhooks: 1, api_keys: 2, events: 140 },
    ],
  })

export const ProjectDeletion = Type.Object(
  {
    dry_run: Type.Literal(true, { description: 'This is a preview; nothing was changed.' }),
    action: Type.Literal('deleteProject', { description: 'Operation ID of the request.' }),
    would_answer: Type.Integer({
      description: 'HTTP status of the response without `dry_run`: 409 if protected instances require `force`.',
      examples: [202],
    }),
    project: { ...ref(Project), description: 'The project as it is now.' },
    live: counts('live'),
    test: counts('test'),
    protected_instances: Type.Array(
      Type.Object(
        {
          id: Id('inst', 'ID of the instance.'),
          name: Type.String({ description: 'Name of the instance.', examples: ['db-1'] }),
          environment: OneOf(['live', 'test'], 'Environment of the instance.'),
        },
        { additionalProperties: false },
      ),
      { description: 'Instances with termination protection, which require `force`.' },
    ),
  },
  { $id: 'ProjectDeletion', description: 'Preview of the deletion of a project.', additionalProperties: false },
)

export const deletionQuery = Type.Object(
  {
    name: Type.Optional(
      Text({
        description: 'Name of the project, as a confirmation. Required without `dry_run`.',
        minLength: 1,
        maxLength: 63,
        examples: ['payments'],
      }),
    ),
    force: Type.Optional(
      Type.Boolean({ default: false, description: 'Also delete instances with termination protection.' }),
    ),
    ...dryRun,
  },
  { additionalProperties: false },
)
export type DeletionQuery = Static<typeof deletionQuery>
