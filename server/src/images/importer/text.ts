/** Makes an untrusted string safe for a message: one line of bounded length without control or escape sequences. */
export function plain(text: string, maxLength: number): string {
  const line = text
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this removes
    .replace(/\u001b(\[[0-9;?]*[ -/]*[@-~]|[@-Z\\-_])/g, '')
    .replace(/[\s\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]+/gu, ' ')
    .trim()
  return line.length <= maxLength ? line : `${line.slice(0, maxLength - 1)}…`
}

/** Formats a number of bytes: `1.5 GiB`. */
export function size(bytes: number): string {
  const unit = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)))
  const value = bytes / 2 ** (10 * unit)
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${['bytes', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`
}
