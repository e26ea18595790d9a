/** OpenPGP keys as text to bytes, because gpgv reads binary keyrings only. Pure. */

const block = /^-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n([\s\S]*?)^-----END PGP PUBLIC KEY BLOCK-----/gm

/** A keyring in binary form; what is not armored (RFC 9580, 6.2) is returned as it is. */
export function dearmor(keyring: Buffer): Buffer {
  const blocks = [...keyring.toString('latin1').matchAll(block)]
  if (blocks.length === 0) return keyring
  return Buffer.concat(blocks.map(([, text]) => decode(text!)))
}

function decode(text: string): Buffer {
  const lines = text.split(/\r?\n/)
  // Headers such as "Comment: …" end at the first blank line; the last line may be a checksum, "=" and four characters.
  const blank = lines.findIndex((line) => line.trim() === '')
  const data = lines.slice(blank + 1).filter((line) => !line.startsWith('='))
  return Buffer.from(data.join(''), 'base64')
}
