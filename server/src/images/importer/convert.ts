/**
 * Creates the flat qcow2 disk that guests boot from. After the header check (header.ts), qemu-img gets a JSON description
 * with the format, the file and `backing: null`, so that the source cannot name another file.
 */
import { chmodSync, closeSync, mkdirSync, openSync, rmSync, statfsSync } from 'node:fs'
import { constants, open, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { diskFull, ImportError } from './errors.ts'
import { syncDirectory } from './files.ts'
import type { Grant } from './grant.ts'
import { HEAD_BYTES, type Inspection, inspectImage, TAIL_BYTES } from './header.ts'
import { jobPaths } from './job-files.ts'
import type { Reporter } from './reporter.ts'
import { fileArgument, requireTool, runTool, type ToolResult, type ToolRun } from './tool.ts'

/** Far below the speed of one core (zlib: over 100 MB/s), so that only a malicious image exceeds these limits. */
const MIN_BYTES_PER_SECOND = 8 << 20
const MIN_CPU_SECONDS = 60
const MAX_CPU_SECONDS = 6 * 3600
const MIN_FREE_BYTES = 16 << 20
/** On what qemu-img measures; for clusters that it writes in another order or twice. */
const MEASURE_MARGIN = 1.02
const MIN_DISK_BYTES = 1 << 20

/** Converts a source file to `output/disk.qcow2` (mode 0444) and returns its format and size. Throws ImportError. */
export async function convertImage(
  jobDir: string,
  sourcePath: string,
  { max_virtual_size_bytes, grant }: { max_virtual_size_bytes: number; grant: Grant },
  reporter: Reporter,
): Promise<Inspection> {
  requireTool('qemu-img')
  const paths = jobPaths(jobDir)
  reporter.phase('converting', 'converting the image')
  rmSync(paths.output, { recursive: true, force: true })
  const inspection = await inspectFile(sourcePath, max_virtual_size_bytes)
  mkdirSync(paths.output, { mode: 0o755 })
  closeSync(openSync(paths.disk, 'wx', 0o600))

  const run: Run = (args, extra) => runTool({ jobDir, tool: 'qemu-img', args, ...limitsFor(inspection), ...extra })
  const source = describe(inspection.format)
  if (inspection.format === 'qcow2') {
    const checked = await run(['check', '-f', 'qcow2', source], { files: [{ path: sourcePath }] })
    // Exit code 3: leaked clusters, which are not copied.
    if (checked.code !== 0 && checked.code !== 3) throw unreadable(checked, 'it is damaged or truncated')
  }
  const diskBytes = await measure(run, inspection, source, sourcePath)
  await grant.need((await stat(sourcePath)).size + diskBytes)
  const converted = await run(['convert', '-p', '-f', inspection.format, '-O', 'qcow2', source, fileArgument(1)], {
    files: [{ path: sourcePath }, { path: paths.disk, write: true }],
    fileBytes: diskBytes,
    onOutput: (text) => {
      const percent = text.match(/\((\d+\.\d+)\/100%\)\s*$/)?.[1]
      if (percent !== undefined) reporter.fraction(Number(percent) / 100)
    },
  })
  if (converted.code !== 0) {
    const { bavail, bsize } = statfsSync(jobDir)
    if (bavail * bsize < MIN_FREE_BYTES) throw diskFull(converted.stderr)
    throw unreadable(converted, 'it could not be read completely')
  }
  const info = await run(['info', '--output=json', '-f', 'qcow2', fileArgument(0)], { files: [{ path: paths.disk }] })
  if (info.code !== 0 || !isFlat(info.stdout, inspection.virtual_size_bytes)) {
    throw new Error(`the converted disk is not flat: ${info.stdout} ${info.stderr}`)
  }
  await finish(paths.disk)
  return inspection
}

type Run = (args: string[], extra: Partial<ToolRun> & Pick<ToolRun, 'files'>) => Promise<ToolResult>

/**
 * How large the converted disk can become. Clusters of the source may share their data, or be compressed, so its size says
 * nothing; neither does the virtual size, of which most images use a small part.
 */
async function measure(run: Run, { format }: Inspection, source: string, path: string): Promise<number> {
  const measured = await run(['measure', '--output=json', '-f', format, '-O', 'qcow2', source], { files: [{ path }] })
  if (measured.code !== 0) throw unreadable(measured, 'its size cannot be determined')
  const { required } = JSON.parse(measured.stdout) as { required?: unknown }
  if (typeof required !== 'number') throw new Error(`qemu-img measure returned ${measured.stdout}`)
  return Math.ceil(required * MEASURE_MARGIN) + MIN_DISK_BYTES
}

/** Reads the header of a file and checks it. Throws ImportError. */
async function inspectFile(path: string, maxVirtualSizeBytes: number): Promise<Inspection> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    const { size } = await file.stat()
    const read = async (from: number, length: number) => {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, from)
      return buffer.subarray(0, bytesRead)
    }
    const head = await read(0, Math.min(size, HEAD_BYTES))
    const tail = await read(Math.max(0, size - TAIL_BYTES), Math.min(size, TAIL_BYTES))
    return inspectImage({ head, tail, size_bytes: size }, maxVirtualSizeBytes)
  } finally {
    await file.close()
  }
}

function describe(format: Inspection['format']): string {
  const file = { driver: 'file', filename: fileArgument(0) }
  return `json:${JSON.stringify({ driver: format, file, ...(format === 'qcow2' && { backing: null }) })}`
}

function limitsFor({ virtual_size_bytes }: Inspection): Pick<ToolRun, 'cpuSeconds' | 'deadlineMs'> {
  const cpuSeconds = Math.min(MAX_CPU_SECONDS, MIN_CPU_SECONDS + Math.ceil(virtual_size_bytes / MIN_BYTES_PER_SECOND))
  return { cpuSeconds, deadlineMs: 2000 * cpuSeconds }
}

function unreadable(result: ToolResult, why: string): ImportError {
  const reason = result.timedOut ? 'reading it took too long' : why
  const message = `The image was rejected: ${reason}. Check the file with qemu-img check, then add it again.`
  return new ImportError('image_format_unsupported', message, `code ${result.code}: ${result.stderr}`)
}

/** Whether the output of `qemu-img info` describes a qcow2 disk of this size that needs no other file. */
export function isFlat(json: string, virtualSizeBytes: number): boolean {
  const info = JSON.parse(json)
  const other = ['backing-filename', 'full-backing-filename', 'encrypted'].some((key) => key in info)
  const data = info['format-specific']?.data
  const dataFile = data === undefined || 'data-file' in data
  return info.format === 'qcow2' && info['virtual-size'] === virtualSizeBytes && !other && !dataFile
}

async function finish(disk: string): Promise<void> {
  const handle = await open(disk, 'r+')
  await handle.sync()
  await handle.close()
  chmodSync(disk, 0o444)
  syncDirectory(dirname(disk))
}
