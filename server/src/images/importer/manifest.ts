/** `output/manifest.json`: the properties of an image, for the driver that boots it. */
import { readFileSync, statSync } from 'node:fs'
import Type, { type Static } from 'typebox'
import { Value } from 'typebox/value'
import { writeAtomically } from './files.ts'
import type { jobPaths } from './job-files.ts'

const partName = Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._-]*$' })

/** Only recipes have `source` and direct boot; an imported disk has a boot loader and is configured by NoCloud. */
export const manifestSchema = Type.Object({
  format: Type.Literal('qcow2'),
  virtual_size_bytes: Type.Integer({ minimum: 512 }),
  boot: Type.Union([Type.Object({ kernel: partName, initrd: partName, append: Type.String() }), Type.Null()]),
  seed: Type.Enum(['nocloud', 'fw_cfg']),
  ready_signal: Type.Enum(['guest', 'process']),
  ssh_user: Type.Union([Type.String(), Type.Null()]),
  source: Type.Optional(Type.String()),
})

export type Manifest = Static<typeof manifestSchema>

/** Writes the manifest beside the disk. */
export function writeManifest(path: string, manifest: Manifest): void {
  writeAtomically(path, `${JSON.stringify(manifest, null, 2)}\n`, { durable: true })
}

/** The manifest of a finished output folder. Throws if it is invalid or a file of the image is missing. */
export function checkOutput(paths: ReturnType<typeof jobPaths>): Manifest {
  const manifest = Value.Parse(manifestSchema, JSON.parse(readFileSync(paths.manifest, 'utf8')))
  for (const name of ['disk.qcow2', manifest.boot?.kernel, manifest.boot?.initrd]) {
    if (name !== undefined && !statSync(`${paths.output}/${name}`).isFile()) throw new Error(`${name} is not a file`)
  }
  return manifest
}
