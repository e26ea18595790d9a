import { join } from 'node:path'
import type { Config } from '../config.ts'
import { rangesFor } from '../lib/tenant-ranges.ts'
import type { Job } from './importer/job.ts'
import type { ImageRow } from './row.ts'

const RECIPES = join(import.meta.dirname, '../../../images')

/** The importer's job for an image, of the operator's project or of the catalogue (`isOperators`) or of another project. Pure. */
export function jobOf(config: Config, row: ImageRow, uploadPath: string, isOperators: boolean): Job {
  const { source } = row
  const disk = {
    max_virtual_size_bytes: Math.max(...config.plans.map((plan) => plan.disk_bytes)),
    ready_signal: row.ready_signal,
    ssh_user: row.ssh_user,
  }
  const download = {
    ...disk,
    max_bytes: config.image_max_bytes,
    allowed_addresses: [...rangesFor(config, config.image_allow, isOperators)],
    stall_timeout_seconds: config.image_stall_timeout_seconds,
  }
  switch (source.kind) {
    case 'recipe':
      return { kind: 'recipe', script: join(RECIPES, source.recipe, 'build.sh') }
    case 'url':
      return { kind: 'url', url: source.url, sha256: source.sha256, ...download }
    case 'upload': {
      const sum = source.sha256 ? { sha256: source.sha256 } : {}
      return { kind: 'upload', path: uploadPath, ...sum, max_bytes: config.image_max_bytes, ...disk }
    }
    case 'publisher': {
      const mirror = config.mirrors[source.publisher]
      if (!mirror) throw new Error(`no mirror is configured for ${source.publisher}`)
      return {
        kind: 'publisher',
        base_url: `${mirror.url.replace(/\/$/, '')}/${source.path}/`,
        sums_name: 'SHA256SUMS',
        signature_name: 'SHA256SUMS.gpg',
        file_name: source.file,
        keyring: mirror.keyring,
        fingerprints: mirror.fingerprints,
        ...download,
      }
    }
  }
}
