import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import fc from 'fast-check'
import { type ConfigFile, parseConfigFile } from './config/file.ts'
import { helpText, settingsTable } from './config/help.ts'
import { SETTING_LIST } from './config/settings.ts'
import { readConfig, type Settings } from './config.ts'
import { StartupError } from './lib/errors.ts'

function read(args: string[], env: Record<string, string> = {}, file: ConfigFile = {}): Settings {
  const invocation = readConfig(args, env, () => file)
  assert.equal(invocation.kind, 'run')
  return (invocation as { settings: Settings }).settings
}

function mistakes(args: string[], env: Record<string, string> = {}): string {
  try {
    readConfig(args, env, () => ({}))
  } catch (error) {
    assert.ok(error instanceof StartupError, String(error))
    return error.message
  }
  return assert.fail('no mistake was found')
}

describe('configuration', () => {
  test('returns the documented defaults when no setting is given', () => {
    const settings = read([])
    assert.equal(settings.port, 8080)
    assert.equal(settings.host, '127.0.0.1')
    assert.equal(settings.region.id, 'us-east-1')
    assert.deepEqual(
      settings.plans.map((plan) => plan.id),
      ['micro-1x', 'standard-1x', 'standard-2x', 'standard-4x', 'standard-8x'],
    )
    assert.deepEqual(settings.image_allow, ['127.0.0.0/8', '::1'])
    assert.equal(settings.key_rotation_days, 90)
    assert.equal(read([], { CLOUDNEXUS_KEY_ROTATION_DAYS: '0' }).key_rotation_days, 0)
  })

  test('gives a flag precedence over a variable, a variable over the file, and the file over the default', () => {
    const port = fc.option(fc.integer({ min: 1, max: 65_535 }), { nil: undefined })
    fc.assert(
      fc.property(port, port, port, (flag, variable, file) => {
        const settings = read(
          flag === undefined ? [] : ['--port', String(flag)],
          variable === undefined ? {} : { CLOUDNEXUS_PORT: String(variable) },
          file === undefined ? {} : { port: file },
        )
        assert.equal(settings.port, flag ?? variable ?? file ?? 8080)
      }),
    )
  })

  test('accepts the value of a flag or variable, or rejects it with lines that name it', () => {
    const named = SETTING_LIST.filter((setting) => setting.type.parse && (setting.flag ?? setting.env))
    fc.assert(
      fc.property(fc.constantFrom(...named), fc.string({ unit: 'binary' }), ({ flag, env }, text) => {
        const args = flag ? [`${flag}=${text}`] : []
        const variables = flag ? {} : { [env!]: text }
        try {
          readConfig(args, variables, () => ({}))
        } catch (error) {
          assert.ok(error instanceof StartupError, String(error))
          assert.ok(
            error.message.split('\n').every((line) => line.includes(flag ?? env!)),
            error.message,
          )
        }
      }),
      { numRuns: 1_000 },
    )
  })

  test('accepts any command line or rejects it with a StartupError', () => {
    const word = fc.oneof(fc.constantFrom('--port', '--host', '--help', '--', '-p', '--port=1', '80'), fc.string())
    fc.assert(
      fc.property(fc.array(word, { maxLength: 6 }), (args) => {
        try {
          readConfig(args, {}, () => ({}))
        } catch (error) {
          assert.ok(error instanceof StartupError, String(error))
        }
      }),
    )
  })

  test('reports all mistakes together, with the nearest name', () => {
    assert.deepEqual(
      mistakes(['--prot=1', '--host', ''], { CLOUDNEXUS_ACCELL: 'kvm', CLOUDNEXUS_PORT: 'x' }).split('\n'),
      [
        'Unknown option --prot (did you mean --port?); see --help.',
        '--host requires a value; see --help.',
        'Unknown setting CLOUDNEXUS_ACCELL (did you mean CLOUDNEXUS_ACCEL?); see --help.',
        'CLOUDNEXUS_PORT must be a whole number from 0 to 65535, not "x".',
      ],
    )
  })

  test('keeps the password of a database out of messages', () => {
    for (const name of ['DATABASE_URL', 'DATABASE_APP_URL', 'DATABASE_ENGINE_URL']) {
      assert.doesNotMatch(mistakes([], { [name]: 'mysql://user:secret@host/name' }), /secret/)
    }
  })

  test('accepts DATABASE_URL alone or all three database URLs', () => {
    const url = 'postgres://user:secret@host/name'
    assert.equal(read([], { DATABASE_URL: url }).database_app_url, null)
    const all = { DATABASE_URL: url, DATABASE_APP_URL: url, DATABASE_ENGINE_URL: url }
    assert.equal(read([], all).database_engine_url, url)
    for (const left of Object.keys(all))
      assert.match(mistakes([], { ...all, [left]: '' }), /^DATABASE_APP_URL and .* set all three/)
    assert.match(mistakes([], { DATABASE_APP_URL: url }), /all three/)
  })

  test('allows images and webhooks at loopback addresses by default only when the API listens on one', () => {
    assert.deepEqual(read(['--host', '0.0.0.0']).image_allow, [])
    assert.deepEqual(read(['--host', '::1']).image_allow, ['127.0.0.0/8', '::1'])
    assert.deepEqual(read([], { CLOUDNEXUS_IMAGE_ALLOW: '10.0.0.0/8, fd00::/8' }).image_allow, [
      '10.0.0.0/8',
      'fd00::/8',
    ])
    assert.deepEqual(read([], {}, { image_allow: [] }).image_allow, [])
    assert.deepEqual(read([]).webhook_allow, ['127.0.0.0/8', '::1'])
    assert.deepEqual(read(['--host', '0.0.0.0']).webhook_allow, [])
    assert.deepEqual(read([], { CLOUDNEXUS_WEBHOOK_ALLOW: '10.0.0.0/8' }).webhook_allow, ['10.0.0.0/8'])
    // For this setting an empty variable is a value.
    assert.deepEqual(read([], { CLOUDNEXUS_WEBHOOK_ALLOW: '' }).webhook_allow, [])
    assert.deepEqual(read([], {}, { webhook_allow: [] }).webhook_allow, [])
  })

  test('parses values of config.json in the same way as flags and variables', () => {
    const file = { host: '[::1]', public_url: 'https://cloud.example.com/', trusted_proxies: ['10.0.0.1, 10.0.0.2'] }
    assert.deepEqual(parseConfigFile('config.json', JSON.stringify(file)), {
      host: '::1',
      public_url: 'https://cloud.example.com',
      trusted_proxies: ['10.0.0.1', '10.0.0.2'],
    })
    assert.throws(() => parseConfigFile('config.json', '{"data_dir": "/"}'), /unknown field data_dir/)
  })

  test('trusts only the proxies that the operator names, and rejects a range of all addresses', () => {
    assert.deepEqual(read([]).trusted_proxies, [])
    const env = { CLOUDNEXUS_TRUSTED_PROXIES: '10.0.0.0/8, fd00::/8,127.0.0.1' }
    assert.deepEqual(read([], env).trusted_proxies, ['10.0.0.0/8', 'fd00::/8', '127.0.0.1'])
    assert.deepEqual(read([], {}, { trusted_proxies: ['::1'] }).trusted_proxies, ['::1'])
    for (const text of ['0.0.0.0/0', '10.0.0.1,::/0', 'proxy.example.com', '0.0.0.0/00']) {
      assert.match(mistakes([], { CLOUDNEXUS_TRUSTED_PROXIES: text }), /CLOUDNEXUS_TRUSTED_PROXIES must be/)
    }
  })

  test('reports every wrong field of config.json', () => {
    const text = JSON.stringify({ prot: 1, port: 99_999, plans: [{ id: 'A', vcpus: 0 }], capacity: { memory: 1 } })
    assert.throws(
      () => parseConfigFile('config.json', text),
      (error: Error) => {
        assert.ok(error instanceof StartupError)
        const wrong = ['prot', 'plans.0', 'plans.0.id', 'plans.0.vcpus', 'capacity.memory']
        return wrong.every((name) => error.message.includes(name))
      },
    )
    assert.throws(() => parseConfigFile('config.json', '{"port": 99999}'), /port must be a whole number/)
    assert.throws(() => parseConfigFile('config.json', '{'), /not valid JSON/)
    assert.deepEqual(parseConfigFile('config.json', '{"capacity":{"memory_bytes":0}}'), {
      capacity: { memory_bytes: 0 },
    })
  })

  test('changes one rate limit without the others, and can disable all', () => {
    const { rate_limits } = read(
      [],
      {},
      { rate_limits: { reads: { rate_per_second: 0.5, burst: 7 }, keys_per_project: 2 } },
    )
    assert.deepEqual(rate_limits.reads, { rate_per_second: 0.5, burst: 7 })
    assert.deepEqual(rate_limits.creates, { rate_per_second: 5, burst: 50 })
    assert.deepEqual([rate_limits.keys_per_project, rate_limits.enabled], [2, true])
    assert.equal(read([], { CLOUDNEXUS_RATE_LIMITS: 'off' }).rate_limits.enabled, false)
    assert.equal(read([], {}, { rate_limits: { enabled: false } }).rate_limits.enabled, false)
    assert.match(mistakes([], { CLOUDNEXUS_RATE_LIMITS: 'maybe' }), /on or off/)
    const wrong = '{"rate_limits": {"reads": {"rate_per_second": 0, "burst": 1}, "writes": {"burst": 1.5}, "read": {}}}'
    assert.throws(
      () => parseConfigFile('config.json', wrong),
      ({ message }: Error) =>
        ['reads.rate_per_second', 'writes', 'writes.burst', 'rate_limits.read'].every((part) => message.includes(part)),
    )
  })

  test('includes every setting in --help and in the documentation table', () => {
    for (const { flag, env, key, in_file } of SETTING_LIST) {
      if (flag ?? env) assert.ok(helpText().includes((flag ?? env)!))
      if (in_file !== false) assert.ok(settingsTable().includes(`\`${key}\``))
    }
    assert.deepEqual(readConfig(['--help', '--nonsense'], {}).kind, 'help')
  })
})
