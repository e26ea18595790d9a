import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { compile, createQuery, type Statement } from './sql.ts'

const sql = createQuery(() => assert.fail('no statement is executed here'))
const compiled = (statement: unknown) => compile(statement as Statement<unknown>)

describe('SQL templates', () => {
  test('turns values into parameters and nested templates into text', () => {
    const window = sql`order by ordinal limit ${5}`
    assert.deepEqual(compiled(sql`select * from t where a = ${'x'} ${sql`and b = ${null}`} ${window}`), {
      text: 'select * from t where a = $1 and b = $2 order by ordinal limit $3',
      values: ['x', null, 5],
    })
  })

  test('expands columns for insert and update', () => {
    const fields = { a: 1, b: sql`now()`, c: sql.json([1]) }
    assert.deepEqual(compiled(sql`insert into t ${sql(fields)}`), {
      text: 'insert into t ("a", "b", "c") values ($1, now(), $2)',
      values: [1, '[1]'],
    })
    assert.deepEqual(compiled(sql`update t set ${sql({ a: 2 })} where id = ${3}`), {
      text: 'update t set "a" = $1 where id = $2',
      values: [2, 3],
    })
  })

  test('encodes objects as JSON, keeps arrays, rejects undefined', () => {
    assert.deepEqual(compiled(sql`select ${{ a: 1 }}, ${['x']}`).values, ['{"a":1}', ['x']])
    assert.throws(() => compiled(sql`select ${undefined}`), TypeError)
  })

  test('never turns a value into SQL syntax', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (value, name) => {
        const { text, values } = compiled(sql`select ${sql(name)} from t where a = ${value}`)
        assert.deepEqual(values, [value])
        assert.equal(text, `select "${name.replaceAll('"', '""')}" from t where a = $1`)
      }),
    )
  })
})
