import { Type } from 'typebox'
import { PageOf } from '../http/list.ts'
import { Id, Text, Timestamp } from '../http/schemas.ts'

const name = Text({ description: 'Name for people.', minLength: 1, maxLength: 63, examples: ['payments'] })
const fields = { id: Id('proj', 'Identifier.'), name, created_at: Timestamp('When it was made.') }

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
  { name },
  {
    $id: 'ProjectCreate',
    description: 'A project to be made.',
    additionalProperties: false,
    examples: [{ name: 'payments' }],
  },
)

const ignored = Type.Optional(Type.Unknown({ description: 'Ignored: what GET printed may be sent back.' }))

export const ProjectUpdate = Type.Object(
  { name: Type.Optional(name), id: ignored, created_at: ignored },
  {
    $id: 'ProjectUpdate',
    description: 'What is left out stays.',
    additionalProperties: false,
    examples: [{ name: 'payments, europe' }],
  },
)
