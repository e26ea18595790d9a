import { type Static, Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { Id, Text, Timestamp } from '../http/schemas.ts'
import { QUOTA_NAMES, type QuotaName } from '../lib/quota.ts'

const name = Text({ description: 'Name for people.', minLength: 1, maxLength: 63, examples: ['payments'] })
const amount = Type.Union([Type.Integer({ minimum: 0, maximum: 2 ** 52 }), Type.Null()], {
  description: 'At most so much; null: no limit but the host.',
})
const Quota = (description: string) =>
  Type.Partial(
    Type.Object(Object.fromEntries(QUOTA_NAMES.map((each) => [each, amount])) as Record<QuotaName, typeof amount>),
    { additionalProperties: false, description, examples: [{ instances: 10, vcpus: 40 }] },
  )
const live = Quota('In the live environment.')
const test = Quota('In the test environment.')
const fields = {
  id: Id('proj', 'Identifier.'),
  name,
  quotas: Type.Object(
    { live, test },
    {
      additionalProperties: false,
      description: "What it may use, where that differs from the operator's configuration.",
    },
  ),
  created_at: Timestamp('When it was made.'),
}
const quotas = Type.Optional(
  Type.Partial(Type.Object({ live, test }), {
    additionalProperties: false,
    description:
      "What it may use, instead of what the operator's configuration says. Replaced whole for an environment.",
  }),
)

export const Project = Type.Object(fields, {
  $id: 'Project',
  description: 'A tenant: nothing of it can be seen or reached from another one.',
  additionalProperties: false,
})

const once = 'Store it now: it is shown this once and cannot be found again.'

export const ProjectCreated = Type.Object(
  {
    ...fields,
    live_key: Type.Optional(Type.String({ description: `Key of its live environment. ${once}` })),
    test_key: Type.Optional(Type.String({ description: `Key of its test environment. ${once}` })),
    secret_available: Type.Optional(
      Type.Boolean({ description: 'False where the answer is a repeated one, which does not hold the keys any more.' }),
    ),
  },
  { $id: 'ProjectCreated', description: 'A new project, with its first keys.', additionalProperties: false },
)

export const ProjectPage = PageOf(Project)

export const ProjectCreate = Type.Object(
  { name, quotas },
  {
    $id: 'ProjectCreate',
    description: 'A project to be made.',
    additionalProperties: false,
    examples: [{ name: 'payments' }],
  },
)

const ignored = Type.Optional(Type.Unknown({ description: 'Ignored: what GET printed may be sent back.' }))

export const ProjectUpdate = Type.Object(
  { name: Type.Optional(name), quotas, id: ignored, created_at: ignored },
  {
    $id: 'ProjectUpdate',
    description: 'What is left out stays.',
    additionalProperties: false,
    examples: [{ name: 'payments, europe' }],
  },
)
export type ProjectUpdateBody = Static<typeof ProjectUpdate>
