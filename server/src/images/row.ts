import type { MachineImage } from '../drivers/driver.ts'
import type { ImageSource } from './source.ts'

/** A row of the table `images`. */
export type ImageRow = {
  id: string
  /** Null for an image of the catalogue. */
  environment_id: string | null
  ordinal: number
  name: string
  description: string
  source: ImageSource
  ready_signal: 'guest' | 'process'
  ssh_user: string
  created_at: Date
  wanted_import: number
  wanted_gone: boolean
  observed_import: number
  observed_state: 'absent' | 'importing' | 'present' | 'failed'
  observed_progress: ImageProgress | null
  observed_error: { code: string; message: string } | null
  observed_manifest: ImageManifest | null
  /** What the image occupies on the disk of the host, or may occupy while it is uploaded and imported. */
  reserved_bytes: number
}

/** Progress of an import, as the API returns it. */
export type ImageProgress = {
  phase: string
  percent: number | null
  done_bytes: number | null
  total_bytes: number | null
}

/** What a driver needs to know about an imported image to boot it. */
export type ImageManifest = {
  virtual_size_bytes: number
  boot: MachineImage['boot']
  seed: MachineImage['seed']
}
