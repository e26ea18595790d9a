import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { createTestApp } from '../http/testing.ts'

const { app, call } = await createTestApp()
after(() => app.close())
const get = (url: string) => call('GET', url, undefined, { authorization: '' })
const source = (name: string) => readFileSync(join(import.meta.dirname, name), 'utf8')

test('returns page, script and style without a key, for any instance', async () => {
  for (const [url, type] of [
    ['/console', 'text/html'],
    ['/console/instances/inst_3x9y2z1a0b', 'text/html'],
    ['/console/status.js', 'text/javascript'],
    ['/console/status.css', 'text/css'],
  ]) {
    const { status, headers } = await get(url!)
    assert.equal(status, 200)
    assert.equal(headers['content-type'], `${type}; charset=utf-8`)
    assert.equal(headers['x-content-type-options'], 'nosniff')
    assert.match(headers['content-security-policy']!, /default-src 'none'; script-src 'self'/)
    assert.match(headers['content-security-policy']!, /frame-ancestors 'none'/)
    assert.doesNotMatch(headers['content-security-policy']!, /unsafe|\*/)
  }
})

test('the page has no inline script or style, so that the policy needs no exception', () => {
  const html = source('status.html') + source('index.html')
  assert.doesNotMatch(html, /<script(?![^>]*src=)|<style|\son\w+=|style=|javascript:/)
})

test('inserts API data as text, and does not store the key', () => {
  const script = source('status.js')
  assert.doesNotMatch(script, /innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function/)
  assert.doesNotMatch(script, /localStorage|sessionStorage|indexedDB|document\.cookie|location\.hash|location\.search/)
})
