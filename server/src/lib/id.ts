import type { Random } from './random.ts'

const ALPHABET = [...'0123456789abcdefghijklmnopqrstuvwxyz']
/** Two characters per random number, because every request generates an ID. */
const PAIRS = ALPHABET.flatMap((first) => ALPHABET.map((second) => first + second))

/** Prefixes of IDs and the number of random characters after them: twenty for resources with many rows. */
export const ID_LENGTHS = {
  inst: 10,
  sub: 10,
  img: 10,
  key: 10,
  ssh: 10,
  proj: 10,
  env: 10,
  bud: 10,
  whk: 10,
  evt: 20,
  dlv: 20,
  req: 20,
  aud: 20,
} as const

export type IdType = keyof typeof ID_LENGTHS

/** A new ID such as `inst_3x9y2z1a0b`. The constraint of the table makes it unique, not this function. */
export function newId(type: IdType, random: Random): string {
  let id = `${type}_`
  for (let i = 0; i < ID_LENGTHS[type]; i += 2) id += PAIRS[random.integer(PAIRS.length)]
  return id
}

/** Whether a text has the format of an ID of this type; checked before a query. */
export function isId(type: IdType, text: string): boolean {
  return new RegExp(`^${type}_[0-9a-z]{${ID_LENGTHS[type]}}$`).test(text)
}
