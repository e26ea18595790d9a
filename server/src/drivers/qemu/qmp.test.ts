import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import fc from 'fast-check'
import { systemClock } from '../../lib/clock.ts'
import { parseMessage, QmpClient, QmpCommandError, QmpConnectionError, type QmpEvent } from './qmp.ts'

const GREETING = '{"QMP":{"version":{},"capabilities":[]}}\r\n'
const LONG = 30_000

type Command = { execute: string; id: number }
type Behaviour = { greet?: string; answer?(command: Command, socket: Socket): string }

describe('the protocol client', () => {
  let folder: string
  let count = 0
  const closers: (() => void)[] = []
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qmp-'))
  })
  after(async () => {
    for (const close of closers) close()
    await rm(folder, { recursive: true })
  })

  async function serve({ greet = GREETING, answer = ok }: Behaviour): Promise<string> {
    const path = join(folder, `${++count}.sock`)
    const server = createServer((socket) => {
      closers.push(() => socket.destroy())
      socket.on('error', () => {})
      socket.write(greet)
      socket.on('data', (data) => {
        for (const line of data.toString().split('\n').filter(Boolean)) {
          const command: Command = JSON.parse(line)
          socket.write(command.execute === 'qmp_capabilities' ? ok(command) : answer(command, socket))
        }
      })
    })
    closers.push(() => server.close())
    await new Promise<void>((resolve) => server.listen(path, resolve))
    return path
  }
  const ok = ({ id }: Command) => `${JSON.stringify({ return: {}, id })}\r\n`
  const open = async (behaviour: Behaviour) => QmpClient.connect(await serve(behaviour), LONG, systemClock)

  test('answers find their questions in any order, events pass between them', async () => {
    const held: string[] = []
    const events: QmpEvent[] = []
    const client = await open({
      answer: (command) => {
        held.unshift(`${JSON.stringify({ return: command.execute, id: command.id })}\n`)
        return held.length < 2 ? '{"event":"STOP","data":{"a":1}}\n' : held.join('')
      },
    })
    client.onEvent = (event) => events.push(event)
    assert.deepEqual(await Promise.all([client.execute('a', {}, LONG), client.execute('b', {}, LONG)]), ['a', 'b'])
    assert.deepEqual(events, [{ event: 'STOP', data: { a: 1 } }])
    client.close()
  })

  test('a refusal is an error of the command, the connection lives on', async () => {
    const client = await open({
      answer: ({ id, execute }) =>
        `${JSON.stringify(execute === 'bad' ? { error: { class: 'X', desc: 'no' }, id } : { return: 1, id })}\n`,
    })
    await assert.rejects(
      client.execute('bad', {}, LONG),
      (error) => error instanceof QmpCommandError && error.message === 'no',
    )
    assert.equal(await client.execute('good', {}, LONG), 1)
    client.close()
  })

  test('a line may arrive in any pieces', async () => {
    const client = await open({
      answer: ({ id }, socket) => {
        const line = Buffer.from(`${JSON.stringify({ return: 'ä€😀', id })}\n`)
        for (const byte of line) socket.write(Buffer.from([byte]))
        return ''
      },
    })
    assert.equal(await client.execute('x', {}, LONG), 'ä€😀')
    client.close()
  })

  const hostile: Record<string, string> = {
    garbage: 'hello\n',
    'not an object': '[1]\n',
    'an answer nobody asked for': '{"return":{},"id":999}\n',
    'an answer without an id': '{"return":{}}\n',
    'a line without end': 'x'.repeat(2 * 1024 * 1024),
  }
  for (const [what, text] of Object.entries(hostile)) {
    test(`${what} ends the connection`, async () => {
      const client = await open({ answer: () => text })
      await assert.rejects(client.execute('x', {}, LONG), QmpConnectionError)
      await client.closed
      await assert.rejects(client.execute('y', {}, LONG), QmpConnectionError)
    })
  }

  test('a deadline passes: the command fails and the connection is not used again', async () => {
    const client = await open({ answer: () => '' })
    await assert.rejects(client.execute('x', {}, 20), QmpConnectionError)
    await client.closed
  })

  test('a server that never greets (it serves somebody else) does not hold us', async () => {
    await assert.rejects(QmpClient.connect(await serve({ greet: '' }), 20, systemClock), QmpConnectionError)
  })

  test('nobody there, or gone in the middle', async () => {
    await assert.rejects(QmpClient.connect(join(folder, 'none.sock'), LONG, systemClock), QmpConnectionError)
    const client = await open({
      answer: (_command, socket) => {
        socket.destroy()
        return ''
      },
    })
    await assert.rejects(client.execute('quit', {}, LONG), QmpConnectionError)
  })

  test('the list of open commands is bounded', async () => {
    const client = await open({ answer: () => '' })
    const results = Array.from({ length: 17 }, () =>
      client.execute('x', {}, LONG).catch((error: Error) => error.message),
    )
    assert.equal(await results[16], 'too many open commands')
    client.close()
    assert.equal(await results[0], 'closed by us')
  })

  test('no line makes the parser throw', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (line) => typeof parseMessage(line).kind === 'string'))
  })
})
