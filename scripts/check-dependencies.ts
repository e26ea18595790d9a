/** Licences and known advisories of the packages that a user installs. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

/** Licences whose terms Apache-2.0 can be distributed with. */
const LICENCES = new Set([
  'MIT',
  'ISC',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'Apache-2.0',
  '0BSD',
  'BlueOak-1.0.0',
  'CC0-1.0',
])
const SEVERE = ['high', 'critical']
const TIMEOUT_MS = 60_000

type License = { license?: { id?: string; name?: string }; expression?: string }
export type Sbom = { components: { name: string; version: string; licenses?: License[] }[] }
export type Audit = {
  vulnerabilities?: Record<string, { severity: string; via: (string | { title: string; url: string })[] }>
  message?: string
  error?: { summary?: string; code?: string }
}

/** Packages without a licence, or with one that is not in the list. */
export function licenceFaults({ components }: Sbom): string[] {
  return components.flatMap(({ name, version, licenses = [] }) => {
    const found = licenses.map(({ license, expression }) => license?.id ?? expression ?? license?.name ?? '')
    const isAllowed = found.length > 0 && found.every(isAllowedExpression)
    return isAllowed ? [] : [`${name} ${version} has the licence ${found.join(', ') || 'none'}`]
  })
}

/** An SPDX expression: each part of AND, and one part of OR, must be in the list. */
function isAllowedExpression(text: string): boolean {
  return text
    .replace(/[()]/g, '')
    .split(/ AND /)
    .every((part) => part.split(/ OR /).some((licence) => LICENCES.has(licence.trim())))
}

/** Severe advisories; null if the registry has not reported any state. */
export function advisoryFaults({ vulnerabilities }: Audit): string[] | null {
  if (vulnerabilities === undefined) return null
  return Object.entries(vulnerabilities)
    .filter(([, { severity }]) => SEVERE.includes(severity))
    .map(([name, { severity, via }]) => {
      const titles = via.map((each) => (typeof each === 'string' ? each : `${each.title} (${each.url})`))
      return `${name} has an advisory of severity ${severity}: ${titles.join('; ')}`
    })
}

/**
 * Checks the installed packages without those for development.
 * @param note called with what could not be checked
 */
export async function dependencyFaults(root: string, note: (line: string) => void): Promise<string[]> {
  const sbom = (await npm(root, ['sbom', '--sbom-format', 'cyclonedx'])) as Sbom
  const audit = await npm(root, ['audit', '--json', '--fetch-retries=0', '--fetch-timeout=10000']).catch(() => ({}))
  const advisories = advisoryFaults(audit as Audit)
  if (advisories === null) note('advisories were not checked: the registry does not offer them, or cannot be reached')
  return [...licenceFaults(sbom), ...(advisories ?? [])]
}

/** The JSON that npm prints, also when it exits with an error. */
async function npm(cwd: string, args: string[]): Promise<object> {
  const options = { cwd, timeout: TIMEOUT_MS, maxBuffer: 64 * 2 ** 20 }
  const { stdout } = await promisify(execFile)('npm', [...args, '--omit', 'dev'], options).catch(
    (error: Error & { stdout?: string }) => {
      if (!error.stdout) throw error
      return { stdout: error.stdout }
    },
  )
  return JSON.parse(stdout) as object
}
