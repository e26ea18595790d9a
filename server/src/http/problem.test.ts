import assert from 'node:assert/strict'
import { test } from 'node:test'
import { toApiError } from './problem.ts'

const failed = (code: string) => toApiError(Object.assign(new Error('/secret/path'), { code, syscall: 'open' }))

test('a full disk is 507, a host or a database that lacks something else is 503, with what to do, and a bug is 500', () => {
  for (const code of ['ENOSPC', 'EDQUOT', '53100']) {
    const error = failed(code)
    assert.deepEqual([error.status, error.code], [507, 'insufficient_storage'], code)
    assert.match(error.detail, /^The disk of the host is full\. Free some space on the host, then retry\.$/)
    assert.equal(error.headers['retry-after'], '30')
  }
  for (const code of ['EMFILE', 'ENFILE', 'ENOMEM', '53200', '25006', '40001', '40P01', '55P03']) {
    assert.equal(failed(code).status, 503, code)
  }
  for (const code of ['EISDIR', '42P01', '23505']) {
    const error = failed(code)
    assert.deepEqual([error.status, error.code], [500, 'internal_error'], code)
    assert.doesNotMatch(error.detail, /secret/)
  }
})
