import { createHmac } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { Random } from '../lib/random.ts'

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const SECRET_LENGTH = 32
const CHECKSUM_LENGTH = 6

/** Format of a key, also for secret scanners: prefix, 32 random characters (190 bits), checksum of 6 characters. */
export const KEY_PATTERN = /^cn_(live|test)_sk_[0-9A-Za-z]{38}$/

/** A new key such as `cn_live_sk_…`. It is shown once; only its digest is stored. */
export function newKey(mode: 'live' | 'test', random: Random): string {
  let key = `cn_${mode}_sk_`
  for (let i = 0; i < SECRET_LENGTH; i++) key += ALPHABET[random.integer(ALPHABET.length)]
  return key + checksum(key)
}

/** Whether format and checksum are valid, so that a mistyped key costs no query. */
export function isWellFormed(key: string): boolean {
  return KEY_PATTERN.test(key) && checksum(key.slice(0, -CHECKSUM_LENGTH)) === key.slice(-CHECKSUM_LENGTH)
}

/** The stored digest of a key: HMAC-SHA-256 with a pepper that is not in the database. */
export function keyDigest(key: string, pepper: Uint8Array): Uint8Array {
  return createHmac('sha256', pepper).update(key).digest()
}

/** Beginning and end of a key, to identify it: `cn_live_sk_ab12...wxyz`. */
export function keyPrefix(key: string): string {
  return `${key.slice(0, 15)}...${key.slice(-4)}`
}

/** CRC-32 in base 62, most significant digit first. */
function checksum(text: string): string {
  let rest = crc32(text)
  let digits = ''
  for (let i = 0; i < CHECKSUM_LENGTH; i++) {
    digits = ALPHABET[rest % 62] + digits
    rest = Math.floor(rest / 62)
  }
  return digits
}
