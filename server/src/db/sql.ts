/**
 * SQL as tagged templates. Every value becomes a parameter, so that no value can become SQL syntax.
 *
 * Awaiting a template executes it; a template inside another one becomes part of it. Besides values, a template can
 * contain `sql.json(value)`, `sql(columns)` after `insert into t` or `set`, and `sql('name')` for an identifier.
 */

/** The rows of a statement, with the number of affected rows and the command tag. */
export type Rows<T> = T & { count: number; command: string }
/** The text of a statement with `$1…`, and its parameters. */
export type Compiled = { text: string; values: unknown[] }
export type Execute = (compiled: Compiled) => Promise<Rows<unknown[]>>

// biome-ignore lint/suspicious/noExplicitAny: a row without a declared type
type AnyRow = Record<string, any>

export interface Query {
  // biome-ignore lint/suspicious/noExplicitAny: values are checked by the database
  <T extends readonly object[] = AnyRow[]>(strings: TemplateStringsArray, ...values: any[]): Statement<T>
  /** Columns and their values for `insert into t ${…}` and `set ${…}`; a string becomes a quoted identifier. */
  (columns: Record<string, unknown> | string): Columns | Identifier
  /** A value for a json column. Without it, an array becomes an SQL array. */
  json(value: unknown): Json
  /** SQL text that contains no data, with parameters; without parameters, it can be several statements. */
  unsafe<T extends readonly object[] = AnyRow[]>(text: string, values?: unknown[]): Promise<Rows<T>>
}

/** Executed once, when it is awaited. */
export class Statement<T> implements PromiseLike<Rows<T>> {
  readonly strings: readonly string[]
  readonly values: readonly unknown[]
  private readonly execute: Execute
  private result: Promise<Rows<T>> | null = null
  constructor(strings: readonly string[], values: readonly unknown[], execute: Execute) {
    this.strings = strings
    this.values = values
    this.execute = execute
  }
  // biome-ignore lint/suspicious/noThenProperty: awaiting a statement executes it
  then<A = Rows<T>, B = never>(
    resolve?: ((rows: Rows<T>) => A | PromiseLike<A>) | null,
    reject?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    this.result ??= this.execute(compile(this)) as Promise<unknown> as Promise<Rows<T>>
    return this.result.then(resolve, reject)
  }
  // biome-ignore lint/suspicious/noExplicitAny: the same type as Promise.catch
  catch<B>(reject: (error: any) => B | PromiseLike<B>): Promise<Rows<T> | B> {
    return this.then(null, reject)
  }
}

class Json {
  readonly value: unknown
  constructor(value: unknown) {
    this.value = value
  }
}
class Columns {
  readonly columns: Record<string, unknown>
  constructor(columns: Record<string, unknown>) {
    this.columns = columns
  }
}
class Identifier {
  readonly name: string
  constructor(name: string) {
    this.name = name
  }
}

/** Creates a template tag that executes on a pool or on one connection. */
export function createQuery(execute: Execute): Query {
  const query = (first: TemplateStringsArray | Record<string, unknown> | string, ...values: unknown[]) => {
    if (typeof first === 'string') return new Identifier(first)
    return 'raw' in first ? new Statement(first as TemplateStringsArray, values, execute) : new Columns(first)
  }
  const json = (value: unknown) => new Json(value)
  const unsafe = (text: string, values: unknown[] = []) => execute({ text, values })
  return Object.assign(query, { json, unsafe }) as unknown as Query
}

/** The text and parameters of a statement and the templates in it. Throws TypeError for `undefined`, which is a bug. */
export function compile(statement: Pick<Statement<unknown>, 'strings' | 'values'>): Compiled {
  const values: unknown[] = []
  const parameter = (value: unknown): string => {
    if (value === undefined) throw new TypeError('undefined is not a value for SQL')
    if (value instanceof Json) values.push(JSON.stringify(value.value))
    else values.push(isPlainObject(value) ? JSON.stringify(value) : value)
    return `$${values.length}`
  }
  const expand = (value: unknown, before: string): string => {
    if (value instanceof Statement) return join(value)
    if (value instanceof Identifier) return quote(value.name)
    if (value instanceof Columns) return expandColumns(value, before)
    return parameter(value)
  }
  const expandColumns = ({ columns }: Columns, before: string): string => {
    const entries = Object.entries(columns)
    const texts = entries.map(([, value]) => expand(value, ''))
    if (/\bset\s*$/i.test(before)) return entries.map(([name], i) => `${quote(name)} = ${texts[i]}`).join(', ')
    return `(${entries.map(([name]) => quote(name)).join(', ')}) values (${texts.join(', ')})`
  }
  const join = ({ strings, values: given }: Pick<Statement<unknown>, 'strings' | 'values'>): string => {
    let text = strings[0]!
    given.forEach((value, i) => {
      text += expand(value, text) + strings[i + 1]!
    })
    return text
  }
  return { text: join(statement), values }
}

const quote = (name: string): string => `"${name.replaceAll('"', '""')}"`

function isPlainObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
}
