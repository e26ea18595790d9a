/** A minimal client of event streams for tests. It stores the received bytes and can be killed. */
import { type IncomingMessage, request } from 'node:http'

/** A received event; `data` is its text. */
export type ReceivedEvent = { id: string; event: string; data: string }

export type TestStream = {
  response: IncomingMessage
  /** The text received so far. */
  text(): string
  /** The complete events received so far. */
  events(): ReceivedEvent[]
  /** The last `id`, also of a block without data, as in the HTML standard. */
  lastId(): string | null
  /** Resolves when the stream has ended or was killed. */
  ended: Promise<void>
  /** Destroys the connection. */
  kill(): void
}

/** Opens `url`. Resolves when the response headers arrive. */
export function openTestStream(url: string, headers: Record<string, string>): Promise<TestStream> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { headers, agent: false }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (part: string) => (text += part))
      const ended = new Promise<void>((resolve) => response.once('close', resolve))
      response.on('error', () => {})
      const blocks = () => text.split('\n\n').slice(0, -1).map(fieldsOf)
      resolve({
        response,
        ended,
        text: () => text,
        events: () => blocks().filter((block): block is ReceivedEvent => block.data !== undefined),
        lastId: () => blocks().findLast(({ id }) => id !== undefined)?.id ?? null,
        kill: () => sent.destroy(),
      })
    })
    sent.on('error', reject)
    sent.end()
  })
}

function fieldsOf(block: string): Partial<ReceivedEvent> {
  const lines = block.split('\n').filter((line) => !line.startsWith(':'))
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)]),
  )
}
