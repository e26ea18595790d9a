/** A client of streams that is as simple as can be, for tests: it remembers the bytes, and can be killed. */
import { type IncomingMessage, request } from 'node:http'

/** An event as it came; `data` is its text. */
export type Told = { id: string; event: string; data: string }

export type TestStream = {
  answer: IncomingMessage
  /** All that came so far. */
  text(): string
  /** The events among it that came whole. */
  events(): Told[]
  /** The last id, as the HTML standard has it: also of a block without data. */
  lastId(): string | null
  /** Resolves when the stream has ended, either way. */
  ended: Promise<void>
  /** Cuts the connection. */
  kill(): void
}

/** Opens `url`; resolves with the beginning of the answer. */
export function openTestStream(url: string, headers: Record<string, string>): Promise<TestStream> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { headers, agent: false }, (answer) => {
      let text = ''
      answer.setEncoding('utf8')
      answer.on('data', (part: string) => (text += part))
      const ended = new Promise<void>((resolve) => answer.once('close', resolve))
      answer.on('error', () => {})
      const blocks = () => text.split('\n\n').slice(0, -1).map(fieldsOf)
      resolve({
        answer,
        ended,
        text: () => text,
        events: () => blocks().filter((block): block is Told => block.data !== undefined),
        lastId: () => blocks().findLast(({ id }) => id !== undefined)?.id ?? null,
        kill: () => sent.destroy(),
      })
    })
    sent.on('error', reject)
    sent.end()
  })
}

function fieldsOf(block: string): Partial<Told> {
  const lines = block.split('\n').filter((line) => !line.startsWith(':'))
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.indexOf(': ')), line.slice(line.indexOf(': ') + 2)]),
  )
}
