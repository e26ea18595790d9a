import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Webhook } from 'standardwebhooks'
import { seededRandom } from '../lib/random.ts'
import { headersOf, newSecret, sign } from './signature.ts'

const random = seededRandom(7)

test('an independent verifier accepts 10,000 random bodies and rejects each with one byte changed', () => {
  const value = fc.jsonValue({ stringUnit: 'binary' })
  fc.assert(
    fc.property(value, fc.uuid(), fc.nat(), (data, id, at) => {
      const { bytes, text } = newSecret(random)
      const body = JSON.stringify({ data })
      const headers = headersOf({ id, body }, new Date(), '1.0.0')
      const signature = sign({ id, body }, headers['webhook-timestamp']!, [bytes])
      const verifier = new Webhook(text)
      const signed = { ...headers, 'webhook-signature': signature }
      assert.deepEqual(verifier.verify(body, signed), JSON.parse(body))
      const offset = at % body.length
      const changed = `${body.slice(0, offset)}${body[offset] === 'x' ? 'y' : 'x'}${body.slice(offset + 1)}`
      assert.throws(() => verifier.verify(changed, signed))
      assert.throws(() => verifier.verify(body, { ...signed, 'webhook-id': `${id}0` }))
    }),
    { numRuns: 10_000 },
  )
})

test('verification fails for any changed byte of the ID, timestamp, body or signature', () => {
  const { bytes, text } = newSecret(random)
  const message = { id: 'evt_0123456789abcdefghij', body: '{"text":"ä.b.c"}' }
  const headers = headersOf(message, new Date(), '1.0.0')
  const signed: Record<string, string> = {
    ...headers,
    'webhook-signature': sign(message, headers['webhook-timestamp']!, [bytes]),
  }
  const verifier = new Webhook(text)
  verifier.verify(message.body, signed)
  const flips = (given: string) =>
    [...Buffer.from(given).keys()].map((i) => {
      const copy = Buffer.from(given)
      copy[i]! ^= 1
      return copy.toString('latin1')
    })
  for (const body of flips(message.body)) assert.throws(() => verifier.verify(body, signed), body)
  for (const name of ['webhook-id', 'webhook-timestamp', 'webhook-signature']) {
    for (const value of flips(signed[name]!)) {
      assert.throws(() => verifier.verify(message.body, { ...signed, [name]: value }), `${name}: ${value}`)
    }
  }
})

test('two secrets produce two signatures in order, and either verifies', () => {
  const [fresh, old] = [newSecret(random), newSecret(random)]
  const message = { id: 'evt_1', body: '{}' }
  const headers = headersOf(message, new Date(), '1.0.0')
  const signature = sign(message, headers['webhook-timestamp']!, [fresh.bytes, old.bytes])
  assert.match(signature, /^v1,[A-Za-z0-9+/]{43}= v1,[A-Za-z0-9+/]{43}=$/)
  for (const { text } of [fresh, old]) {
    new Webhook(text).verify(message.body, { ...headers, 'webhook-signature': signature })
  }
  const [first] = signature.split(' ')
  new Webhook(fresh.text).verify(message.body, { ...headers, 'webhook-signature': first! })
})
