/** The list of settings as the text of --help and as the table of docs/configuration.md. */
import type { NamedSetting } from './setting.ts'
import { SETTING_LIST } from './settings.ts'

/** The text that --help prints. */
export function helpText(): string {
  const flags = SETTING_LIST.filter((setting) => setting.flag)
  const variables = SETTING_LIST.filter((setting) => setting.env && !setting.flag)
  return [
    'npm start -- [options]',
    '',
    'Options:',
    ...columns([
      ...flags.map(
        (s): Row => [
          `${s.flag} ${s.type.placeholder}`,
          `${s.description} (default: ${defaultText(s)}; variable: ${s.env})`,
        ],
      ),
      [
        '--take-over',
        'Start a copy of a data directory whose original is gone permanently: it becomes the owner of the database',
      ],
      ['--help', 'Print this text'],
      ['--version', 'Print the version of this release'],
    ]),
    '',
    'Environment variables:',
    ...columns(
      variables.map((s) => [`${s.env}=${s.type.placeholder}`, `${s.description} (default: ${defaultText(s)})`]),
    ),
    '',
    'The file <data-dir>/config.json can hold these settings and more, such as plans and rate limits: see',
    'docs/configuration.md. A flag takes precedence over a variable, and a variable over the file.',
    '',
  ].join('\n')
}

/** The Markdown table of all settings. */
export function settingsTable(): string {
  const rows = SETTING_LIST.map((s) => [
    code(s.in_file === false ? '' : s.key),
    code(s.flag ?? ''),
    code(s.env ?? ''),
    defaultText(s),
    s.description,
  ])
  return [
    '| config.json | Flag | Environment variable | Default | Description |',
    '|---|---|---|---|---|',
    ...rows.map((cells) => `| ${cells.join(' | ')} |`),
  ].join('\n')
}

function defaultText(setting: NamedSetting): string {
  if (setting.default_text !== undefined) return setting.default_text
  return setting.default === null ? 'none' : setting.type.show(setting.default)
}

function code(text: string): string {
  return text ? `\`${text.replaceAll('|', '\\|')}\`` : ''
}

type Row = [left: string, right: string]

function columns(rows: Row[]): string[] {
  const width = Math.max(...rows.map(([left]) => left.length))
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`)
}
