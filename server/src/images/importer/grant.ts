/**
 * The space of an import. The importer reports how many bytes it is going to occupy, and waits until the control plane,
 * which reserves them, has written a grant that is large enough.
 */
import { readFileSync } from 'node:fs'
import Type from 'typebox'
import { Value } from 'typebox/value'
import { systemClock as clock } from '../../lib/clock.ts'
import { ImportError } from './errors.ts'
import { writeAtomically } from './files.ts'
import { jobPaths } from './job-files.ts'
import type { Reporter } from './reporter.ts'

const POLL_MS = 100
/** The control plane may be stopped for a while. */
const MAX_WAIT_MS = 6 * 3600 * 1000
/** Step of a download whose length is not known. */
export const STEP_BYTES = 64 * 2 ** 20

const schema = Type.Object({ bytes: Type.Integer({ minimum: 0 }) })

export type Grant = {
  /** Resolves when the import may occupy this many bytes in total. */
  need(bytes: number): Promise<void>
}

export function createGrant(jobDir: string, reporter: Reporter): Grant {
  let granted = 0
  return {
    async need(bytes) {
      if (bytes <= granted) return
      granted = readGrant(jobDir)
      if (bytes <= granted) return
      reporter.needs(bytes)
      const deadline = clock.monotonic() + MAX_WAIT_MS
      while (granted < bytes) {
        if (clock.monotonic() > deadline)
          throw new ImportError('image_import_failed', 'The import waited too long for disk space. Retry it.')
        await clock.sleep(POLL_MS)
        granted = readGrant(jobDir)
      }
    },
  }
}

/** The bytes that an import may occupy; 0 without a valid grant. */
export function readGrant(jobDir: string): number {
  try {
    return Value.Parse(schema, JSON.parse(readFileSync(jobPaths(jobDir).grant, 'utf8'))).bytes
  } catch {
    return 0
  }
}

/** Called by the control plane after it has reserved the bytes. */
export function writeGrant(jobDir: string, bytes: number): void {
  writeAtomically(jobPaths(jobDir).grant, JSON.stringify({ bytes }), { durable: false })
}
