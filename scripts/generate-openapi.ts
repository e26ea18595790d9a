import { createApp } from '../server/src/app.ts'
import { defaultSettings } from '../server/src/config.ts'
import type { Deps } from '../server/src/deps.ts'
import { systemClock as clock } from '../server/src/lib/clock.ts'
import { silentLog as log } from '../server/src/lib/log.ts'
import { systemRandom as random } from '../server/src/lib/random.ts'

/** The text of openapi.json. It is generated from the routes, without a database, drivers or secrets. */
export async function generateOpenapi(): Promise<string> {
  const config = {
    ...defaultSettings(),
    public_url: 'http://127.0.0.1:8080',
  }
  const notifier = { onChange() {} }
  const { signal: stopping } = new AbortController()
  const deps = { config, clock, log, random, notifier, stopping, secrets: {}, regions: [] } as unknown as Deps
  const app = await createApp(deps, { ready: async () => [] })
  await app.ready()
  const document = app.swagger()
  await app.close()
  return `${JSON.stringify(document, null, 2)}\n`
}
