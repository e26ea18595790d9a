/** The progress and result of an import: the output file of the importer, which replaces it atomically. */
import Type, { type Static } from 'typebox'
import { importErrorCodes } from './errors.ts'

const bytes = Type.Integer({ minimum: 0 })

/** The file `status.json`. */
export const statusSchema = Type.Object({
  state: Type.Enum(['running', 'done', 'failed']),
  phase: Type.Enum(['downloading', 'verifying', 'converting', 'building']),
  progress: Type.Union([Type.Number({ minimum: 0, maximum: 1 }), Type.Null()], {
    description: 'Fraction of this phase',
  }),
  done_bytes: bytes,
  total_bytes: Type.Union([bytes, Type.Null()]),
  message: Type.Union([Type.String(), Type.Null()]),
  error: Type.Union([Type.Object({ code: Type.Enum([...importErrorCodes]), message: Type.String() }), Type.Null()]),
  needed_bytes: Type.Optional(
    Type.Integer({
      minimum: 0,
      description: 'Bytes that the import is going to occupy in total; it waits for their grant',
    }),
  ),
  pid: Type.Integer(),
  updated_at: Type.String({ description: 'RFC 3339, UTC' }),
})

export type Status = Static<typeof statusSchema>
export type Phase = Status['phase']
