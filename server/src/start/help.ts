import { SETTINGS } from './settings.ts'

/** What --help prints. */
export function helpText(): string {
  const flags = SETTINGS.filter((setting) => setting.flag)
  const variables = SETTINGS.filter((setting) => setting.env && !setting.flag)
  return [
    'npm start -- [options]',
    '',
    'Options:',
    ...columns(
      flags.map((s) => [`${s.flag} ${s.value}`, `${s.help} (${s.default}; or ${s.env})`]),
      [
        ['--help', 'This text'],
        ['--version', 'The version of this release'],
      ],
    ),
    '',
    'Environment:',
    ...columns(variables.map((s) => [`${s.env}=${s.value}`, `${s.help} (${s.default})`])),
    '',
    'A file <data-dir>/config.json may set the same, and plans, region and mirrors; the README lists its fields.',
    'Flags win over variables, variables over the file.',
    '',
  ].join('\n')
}

/** The Markdown table of all settings for the README. */
export function settingsTable(): string {
  const code = (text: string | undefined) => (text ? `\`${text.replaceAll('|', '\\|')}\`` : '')
  const rows = SETTINGS.map(
    (s) =>
      `| ${code(s.key === 'data_dir' ? undefined : s.key)} | ${code(s.flag)} | ${code(s.env)} | ${s.default} | ${s.help} |`,
  )
  return ['| config.json | flag | environment | default | what it is |', '|---|---|---|---|---|', ...rows].join('\n')
}

function columns(...groups: string[][][]): string[] {
  const rows = groups.flat()
  const width = Math.max(...rows.map(([left]) => left!.length))
  return rows.map(([left, right]) => `  ${left!.padEnd(width)}  ${right}`)
}
