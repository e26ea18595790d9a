/** Decodes ASCII-armored OpenPGP keys, because gpgv reads only binary keyrings. Pure. */

const block = /^-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n([\s\S]*?)^-----END PGP PUBLIC KEY BLOCK-----/gm

/** The keyring in binary form; a keyring without armor (RFC 9580, 6.2) is returned unchanged. */
export function dearmor(keyring: Buffer): Buffer {
  const blocks = [...keyring.toString('latin1').matchAll(block)]
  if (blocks.length === 0) return keyring
  return Buffer.concat(blocks.map(([, text]) => decode(text!)))
}

function decode(text: string): Buffer {
  const lines = text.split(/\r?\n/)
  // The headers (such as "Comment: …") end at the first blank line. The last line may be a checksum: "=" and 4 characters.
  const blank = lines.findIndex((line) => line.trim() === '')
  const data = lines.slice(blank + 1).filter((line) => !line.startsWith('='))
  return Buffer.from(data.join(''), 'base64')
}
