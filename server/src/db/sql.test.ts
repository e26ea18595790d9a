import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { compile, createQuery, type Statement } from './sql.ts'

const sql = createQuery(() => assert.fail('nothing is executed here'))
const compiled = (statement: unknown) => compile(statement as Statement<unknown>)

describe('SQL templates', () => {
  test('values become parameters, nested templates text', () => {
    const window = sql`order by ordinal limit ${5}`
    assert.deepEqual(compiled(sql`select * from t where a = ${'x'} ${sql`and b = ${null}`} ${window}`), {
      text: 'select * from t where a = $1 and b = $2 order by ordinal limit $3',
      values: ['x', null, 5],
    })
  })

  test('columns for an insert and for an update', () => {
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

  test('objects are JSON, arrays stay arrays, undefined is refused', () => {
    assert.deepEqual(compiled(sql`select ${{ a: 1 }}, ${['x']}`).values, ['{"a":1}', ['x']])
    assert.throws(() => compiled(sql`select ${undefined}`), TypeError)
  })

  test('no value ever becomes syntax', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (value, name) => {
        const { text, values } = compiled(sql`select ${sql(name)} from t where a = ${value}`)
        assert.deepEqual(values, [value])
        assert.equal(text, `select "${name.replaceAll('"', '""')}" from t where a = $1`)
      }),
    )
  })
})
