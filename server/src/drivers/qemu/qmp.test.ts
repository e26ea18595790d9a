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
type Behaviour = { greet?: string; respond?(command: Command, socket: Socket): string }

describe('QmpClient', () => {
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

  async function serve({ greet = GREETING, respond = ok }: Behaviour): Promise<string> {
    const path = join(folder, `${++count}.sock`)
    const server = createServer((socket) => {
      closers.push(() => socket.destroy())
      socket.on('error', () => {})
      socket.write(greet)
      socket.on('data', (data) => {
        for (const line of data.toString().split('\n').filter(Boolean)) {
          const command: Command = JSON.parse(line)
          socket.write(command.execute === 'qmp_capabilities' ? ok(command) : respond(command, socket))
        }
      })
    })
    closers.push(() => server.close())
    await new Promise<void>((resolve) => server.listen(path, resolve))
    return path
  }
  const ok = ({ id }: Command) => `${JSON.stringify({ return: {}, id })}\r\n`
  const open = async (behaviour: Behaviour) => QmpClient.connect(await serve(behaviour), LONG, systemClock)

  test('matches replies to commands in any order, with events between them', async () => {
    const replies: string[] = []
    const events: QmpEvent[] = []
    const client = await open({
      respond: (command) => {
        replies.unshift(`${JSON.stringify({ return: command.execute, id: command.id })}\n`)
        return replies.length < 2 ? '{"event":"STOP","data":{"a":1}}\n' : replies.join('')
      },
    })
    client.onEvent = (event) => events.push(event)
    assert.deepEqual(await Promise.all([client.execute('a', {}, LONG), client.execute('b', {}, LONG)]), ['a', 'b'])
    assert.deepEqual(events, [{ event: 'STOP', data: { a: 1 } }])
    client.close()
  })

  test('an error reply rejects the command, and the connection stays usable', async () => {
    const client = await open({
      respond: ({ id, execute }) =>
        `${JSON.stringify(execute === 'bad' ? { error: { class: 'X', desc: 'no' }, id } : { return: 1, id })}\n`,
    })
    await assert.rejects(
      client.execute('bad', {}, LONG),
      (error) => error instanceof QmpCommandError && error.message === 'no',
    )
    assert.equal(await client.execute('good', {}, LONG), 1)
    client.close()
  })

  test('accepts a line in any number of chunks', async () => {
    const client = await open({
      respond: ({ id }, socket) => {
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
    'a reply with an unknown ID': '{"return":{},"id":999}\n',
    'a reply without an ID': '{"return":{}}\n',
    'an endless line': 'x'.repeat(2 * 1024 * 1024),
  }
  for (const [what, text] of Object.entries(hostile)) {
    test(`closes the connection after ${what}`, async () => {
      const client = await open({ respond: () => text })
      await assert.rejects(client.execute('x', {}, LONG), QmpConnectionError)
      await client.closed
      await assert.rejects(client.execute('y', {}, LONG), QmpConnectionError)
    })
  }

  test('rejects the command and closes the connection when a deadline passes', async () => {
    const client = await open({ respond: () => '' })
    await assert.rejects(client.execute('x', {}, 20), QmpConnectionError)
    await client.closed
  })

  test('rejects when the server does not greet, because it serves another client', async () => {
    await assert.rejects(QmpClient.connect(await serve({ greet: '' }), 20, systemClock), QmpConnectionError)
  })

  test('rejects without a server, and when the server closes the connection', async () => {
    await assert.rejects(QmpClient.connect(join(folder, 'none.sock'), LONG, systemClock), QmpConnectionError)
    const client = await open({
      respond: (_command, socket) => {
        socket.destroy()
        return ''
      },
    })
    await assert.rejects(client.execute('quit', {}, LONG), QmpConnectionError)
  })

  test('limits the number of open commands', async () => {
    const client = await open({ respond: () => '' })
    const results = Array.from({ length: 17 }, () =>
      client.execute('x', {}, LONG).catch((error: Error) => error.message),
    )
    assert.equal(await results[16], 'too many open commands')
    client.close()
    assert.equal(await results[0], 'closed by the client')
  })

  test('the parser accepts any line without throwing', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (line) => typeof parseMessage(line).kind === 'string'))
  })
})
