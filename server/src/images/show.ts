import type { Static } from 'typebox'
import { timestamp } from '../lib/timestamp.ts'
import type { ImageProgress, ImageRow } from './row.ts'
import type { Image } from './schema.ts'
import { showSource } from './source.ts'

/** The API representation of a row. Pure. */
export function showImage(row: ImageRow): Static<typeof Image> {
  const { id, name, description, ready_signal, ssh_user } = row
  const status = statusOf(row)
  return {
    id,
    name,
    description,
    status,
    cached: row.observed_state === 'present',
    progress: status === 'importing' ? (row.observed_progress ?? waiting(row)) : null,
    error: status === 'failed' ? row.observed_error : null,
    ready_signal,
    ssh_user,
    source: showSource(row.source),
    virtual_size_bytes: row.observed_manifest?.virtual_size_bytes ?? null,
    is_catalog: row.environment_id === null,
    created_at: timestamp(row.created_at),
  }
}

/** An image of the catalogue is available even if it is not on the host; an added image is not. */
function statusOf(row: ImageRow): Static<typeof Image>['status'] {
  if (row.observed_state === 'present') return 'available'
  if (row.observed_import < row.wanted_import || row.observed_state === 'importing') return 'importing'
  if (row.observed_state === 'failed') return 'failed'
  return row.environment_id === null ? 'available' : 'importing'
}

function waiting(row: ImageRow): ImageProgress {
  const phase = row.source.kind === 'upload' && row.wanted_import === 0 ? 'waiting_for_upload' : 'waiting'
  return { phase, percent: null, done_bytes: null, total_bytes: null }
}
