/** The types of settings. Each reads a value from config.json (JSON) and, where it has `parse`, from a flag or variable (text). */
import { isIP } from 'node:net'
import { type Static, type TSchema, Type } from 'typebox'
import { parseRange } from '../lib/outbound.ts'

export type SettingType<T> = {
  /** Schema of the value in config.json. */
  schema: TSchema
  /** Text → value; throws an Error whose message completes "… must be". Absent: config.json is the only source. */
  parse?(text: string): T
  /** Stands for the value in --help. */
  placeholder?: string
  /** A default value, as --help and the documentation show it. */
  show(value: T): string
}

/** An object or a list, which only config.json can hold. */
export function json<S extends TSchema>(schema: S, show: (value: Static<S>) => string): SettingType<Static<S>> {
  return { schema, show }
}

export function integer(min: number, max: number, placeholder = 'NUMBER'): SettingType<number> {
  const parse = (text: string): number => {
    const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
    if (value >= min && value <= max) return value
    throw new Error(max === Number.MAX_SAFE_INTEGER ? 'a whole number' : `a whole number from ${min} to ${max}`)
  }
  return { schema: Type.Integer(), parse, placeholder, show: String }
}

export function bytes(min: number): SettingType<number> {
  const show = (value: number) => (value % 2 ** 30 === 0 ? `${value / 2 ** 30} GiB` : `${value} bytes`)
  return { ...integer(min, Number.MAX_SAFE_INTEGER, 'BYTES'), show }
}

/** On or off; true or false in config.json. */
export const onOff: SettingType<boolean> = {
  schema: Type.Boolean(),
  parse(text) {
    if (/^(on|true)$/.test(text)) return true
    if (/^(off|false)$/.test(text)) return false
    throw new Error('on or off')
  },
  placeholder: 'on|off',
  show: (value) => (value ? 'on' : 'off'),
}

export function oneOf<const T extends string>(placeholder: string, ...names: T[]): SettingType<T> {
  const parse = (text: string): T => {
    const name = names.find((each) => each === text)
    if (name !== undefined) return name
    throw new Error(`one of ${names.join(', ')}`)
  }
  return { schema: Type.String(), parse, placeholder, show: String }
}

export const folder = text('FOLDER', (value) => {
  if (value === '' || value.includes('\0')) throw new Error('the name of a folder')
  return value
})

export const host = text('ADDRESS', (value) => {
  const bare = withoutBrackets(value)
  if (isIP(bare) || /^(?=.*[a-z])[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/i.test(bare)) return bare
  throw new Error('an address of this machine, such as 127.0.0.1, ::1 or 0.0.0.0')
})

export const addressAndPort = text('ADDRESS:PORT', (value) => {
  const [, address, port] = /^(.+):(\d{1,5})$/.exec(value) ?? []
  if (address !== undefined && isIP(withoutBrackets(address)) && Number(port) <= 65_535) return value
  throw new Error('an address and a port, such as 127.0.0.1:9464')
})

export const hostAndPort = text('HOST:PORT', (value) => {
  const [, port] = /^(?:\[[0-9a-f:.]+\]|[a-z0-9][a-z0-9.-]{0,252}):(\d{1,5})$/i.exec(value) ?? []
  if (Number(port) >= 1 && Number(port) <= 65_535) return value
  throw new Error('a host and a port, such as 10.0.0.5:4750')
})

/** The value has no slash at its end. */
export const httpUrl = text('URL', (value) => {
  const url = URL.parse(value)
  const plain = url && /^https?:$/.test(url.protocol) && !url.username && !url.password && !/[?#]/.test(value)
  if (!plain) throw new Error('an http:// or https:// URL without a query')
  return url.href.replace(/\/+$/, '')
})

export const databaseUrl = text('URL', (value) => {
  const url = URL.parse(value.replace('@/', '@localhost/'))
  if (url && /^postgres(ql)?:$/.test(url.protocol) && url.pathname.length > 1) return value
  throw new Error('postgres://user:password@host:5432/database')
})

export const ipv4Range = text('CIDR', (value) => {
  if (isRange(value) && value.includes('/') && isIP(value.split('/')[0]!) === 4) return value
  throw new Error('an IPv4 range such as 203.0.113.0/28')
})

/** A list of CIDR ranges and single addresses. */
export const ranges: SettingType<string[]> = {
  schema: Type.Array(Type.String()),
  parse: parseRanges,
  placeholder: 'CIDR,…',
  show: (value) => value.join(', ') || 'none',
}

/** Ranges that do not contain every address: a client could otherwise claim any IP address. */
export const proxyRanges: SettingType<string[]> = {
  ...ranges,
  parse(value) {
    const list = parseRanges(value)
    if (!list.some((range) => /\/0+$/.test(range))) return list
    throw new Error('address ranges of your own proxies, such as 10.0.0.0/8; a range of all addresses is not allowed')
  },
}

/** 'localhost' and the loopback addresses. */
export function isLoopback(address: string): boolean {
  return address === 'localhost' || address === '::1' || (isIP(address) === 4 && address.startsWith('127.'))
}

function text(placeholder: string, parse: (value: string) => string): SettingType<string> {
  return { schema: Type.String(), parse, placeholder, show: String }
}

function parseRanges(value: string): string[] {
  const list = value
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
  if (list.every(isRange)) return list
  throw new Error('address ranges such as 10.0.0.0/8, separated by commas')
}

function isRange(value: string): boolean {
  try {
    parseRange(value)
    return true
  } catch {
    return false
  }
}

function withoutBrackets(address: string): string {
  return address.replace(/^\[(.*)\]$/, '$1')
}
