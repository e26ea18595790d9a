/**
 * The composition root: from the command line to a control plane that answers. Everything is opened here, each as soon
 * as what it needs is there, and what can be refused is refused first, before anything is made or takes time.
 */
import { hostname } from 'node:os'
import { join } from 'node:path'
import { createApp } from './app.ts'
import { type Config, readConfig, readVersion, type Settings } from './config.ts'
import { createNotifier } from './db/notify.ts'
import type { Deps } from './deps.ts'
import { proveAccelerator } from './drivers/qemu/accelerator.ts'
import { QemuDriver } from './drivers/qemu/driver.ts'
import { createSimulatedDriver } from './drivers/simulated/driver.ts'
import { createEngines } from './engine/pools.ts'
import { WORK_CHANNEL } from './engine/work.ts'
import { compileWhenIdle, createRouteSchemas } from './http/lazy-schemas.ts'
import { CATALOGUE } from './images/catalog.ts'
import { syncCatalogue } from './images/store.ts'
import { removeIncomplete } from './images/upload.ts'
import { createKeyLookup } from './keys/store.ts'
import { atMost, systemClock as clock } from './lib/clock.ts'
import { StartupError } from './lib/errors.ts'
import { createLog, type Log } from './lib/log.ts'
import { createMetrics } from './lib/metrics.ts'
import { openConnection } from './lib/outbound-connection.ts'
import { systemRandom as random } from './lib/random.ts'
import { createResolve } from './lib/resolve.ts'
import { collectMetrics, engineObserver } from './prometheus/collectors.ts'
import { listenForPrometheus } from './prometheus/listener.ts'
import { pools, wakeAtStart, watchDriver } from './reconcilers.ts'
import { createRequestLog } from './requests/recorder.ts'
import { banner } from './start/banner.ts'
import { openCredentials } from './start/credentials.ts'
import { checkDiskSpace, openDataDir } from './start/data-dir.ts'
import { openDatabase } from './start/database.ts'
import { openFirstProject } from './start/first-project.ts'
import { helpText } from './start/help.ts'
import { hostFacts, limitsOf, machineUid } from './start/host.ts'
import { openInstallation } from './start/installation.ts'
import { checkListenAddress, defaultPublicUrl, listenError, sshPort } from './start/listen-address.ts'
import { lockDataDir } from './start/lock.ts'
import { checkPrograms, findProgram } from './start/programs.ts'
import { createReadiness } from './start/readiness.ts'
import { ensureMicroLinux } from './start/recipe.ts'
import { openRunDir } from './start/run-dir.ts'
import { openSecrets } from './start/secrets.ts'
import { createShutdown, type Shutdown } from './start/shutdown.ts'
import { openSshKey } from './start/ssh-key.ts'

// Together less than the ten seconds that stopping may take.
const DRAIN_MS = 5_000
const ENGINE_STOP_MS = 2_000
const REQUEST_LOG_STOP_MS = 500
const DATABASE_STOP_MS = 2_000
/** Of each try to resolve a name. */
const RESOLVE_MS = 900

await run()

async function run(): Promise<void> {
  const invocation = parse()
  if (invocation.kind === 'help') return void process.stdout.write(helpText())
  if (invocation.kind === 'version') return void process.stdout.write(`${readVersion()}\n`)
  const { settings } = invocation
  const log = createLog({ level: settings.log_level, pretty: process.stderr.isTTY })
  // A reader of our output that goes away must not end the machines' control plane.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  process.on('uncaughtException', (error) => {
    log.error({ error: error.stack }, 'a bug: the control plane ends; start it again')
    process.exit(1)
  })
  const shutdown = createShutdown(clock, log)
  try {
    process.stdout.write(await start(settings, log, shutdown))
  } catch (error) {
    process.stderr.write(`${explain(error)}\n`)
    await shutdown.stop(1)
  }
}

/** Opens everything; answers the banner once all of it is ready. */
async function start(settings: Settings, log: Log, shutdown: Shutdown): Promise<string> {
  const begin = clock.monotonic()
  const say = (line: string) => process.stderr.write(`cloudnexus: ${line}\n`)

  const data_dir = openDataDir(settings.data_dir)
  const lock = lockDataDir(data_dir)
  checkDiskSpace(data_dir)
  checkPrograms()
  const port = await checkListenAddress(settings.host, settings.port)
  const installation = openInstallation(data_dir, random, clock.now())
  const run_dir = openRunDir(installation, data_dir)
  const public_url = settings.public_url ?? defaultPublicUrl(settings.host, port)
  const config: Config = { ...settings, data_dir, run_dir, port, public_url }
  lock.announce(public_url)
  const secrets = openSecrets(data_dir, random)
  const sshKey = openSshKey(data_dir, random)
  const credentials = openCredentials(data_dir, public_url, random)

  const logins = { installation_id: installation.id, database_key: secrets.database_key }
  const opening = openDatabase(config, logins, { clock, log }).then((database) => {
    shutdown.add('database', () => database.stop(DATABASE_STOP_MS))
    return database
  })
  const building = ensureMicroLinux(data_dir, say)
  // Both to their end, so that a failure of one leaves nothing of the other behind.
  await Promise.allSettled([opening, building])
  const [database, image] = [await opening, await building]
  const { sql, owner } = database

  const limits = limitsOf(config.capacity, hostFacts(data_dir))
  const qemu = {
    data_dir,
    run_dir,
    images_dir: join(data_dir, 'images'),
    installation_id: installation.id,
    qemu_binary: findProgram('qemu-system-x86_64')!,
    service_uid: machineUid(installation),
    multicast_group: installation.multicast_group,
    multicast_port_base: installation.multicast_port_base,
    log,
    clock,
  }
  const proof = { ...qemu, mode: config.accelerator, image, cache_file: join(data_dir, 'accelerator.json') }
  const accelerator = await proveAccelerator(proof).catch((error: Error) => {
    throw new StartupError(error.message)
  })
  const live = new QemuDriver({ ...qemu, accelerator, limits })
  const test = createSimulatedDriver({ sql, seed: installation.seed })
  const drivers = [live, test]
  for (const driver of drivers) shutdown.add(`driver ${driver.name}`, () => driver.close())

  const public_addresses = config.public_addresses ?? installation.loopback_block
  await openFirstProject(owner, random, {
    region: config.region.id,
    public_addresses,
    keys: { live: credentials.live_key, test: credentials.test_key },
    pepper: secrets.pepper,
    ssh_public_key: sshKey.public_key,
  })
  await owner.begin((tx) => syncCatalogue(tx, CATALOGUE))
  await owner.end()

  const notifier = createNotifier(sql, clock, WORK_CHANNEL)
  await notifier.start()
  // Batches hold the rows of many tenants.
  const requests = createRequestLog({ sql, clock, random, log, days: config.request_log_days })
  shutdown.add('request log', () => requests.stop(REQUEST_LOG_STOP_MS))
  const metrics = createMetrics()
  collectMetrics({ metrics, sql, clock, requests })
  const regions = [{ ...config.region, drivers: { live, test } }]
  const keys = createKeyLookup({ sql, clock, pepper: secrets.pepper })
  const stopping = new AbortController()
  const deps: Deps = {
    ...{ config, sql, clock, random, log, secrets, regions, notifier, requests, metrics, keys },
    resolve: createResolve(RESOLVE_MS),
    openConnection,
    stopping: stopping.signal,
  }
  const worker = `${hostname()}:${process.pid}:${installation.id}`
  const engine = createEngines({ sql, clock, log, worker, observer: engineObserver(metrics) }, pools(deps))
  shutdown.add('engine', () => engine.stop(ENGINE_STOP_MS))
  const readiness = createReadiness({ sql, engine, clock })
  const schemas = createRouteSchemas()
  const app = await createApp(deps, { ready: readiness.check, schemas })
  shutdown.add('requests', async () => {
    stopping.abort()
    const closed = app.close()
    await notifier.stop()
    await atMost(clock, DRAIN_MS, closed)
    app.server.closeAllConnections()
  })
  if (config.metrics_listen !== null) {
    const listener = await listenForPrometheus(metrics, config.metrics_listen)
    shutdown.add('metrics', async () => void listener.close().closeAllConnections())
  }
  removeIncomplete(config)
  await app.listen({ host: config.host, port }).catch((error: NodeJS.ErrnoException) => {
    throw listenError(error, config.host, port)
  })

  await Promise.all(drivers.map((driver) => driver.adopt()))
  for (const driver of drivers) watchDriver(deps, engine, driver)
  readiness.adopted()
  await engine.start()
  await wakeAtStart(deps)
  void compileWhenIdle(schemas, { clock, log, signal: stopping.signal })
  return banner({
    config,
    hypervisor: live.hypervisor(),
    database: database.description,
    limits,
    public_addresses,
    ssh_port: await sshPort(public_addresses),
    credentials_file: credentials.file,
    ssh_key_file: sshKey.private_key_file,
    seconds: (clock.monotonic() - begin) / 1000,
  })
}

function parse(): ReturnType<typeof readConfig> {
  try {
    return readConfig(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`${explain(error)}\n`)
    process.exit(1)
  }
}

/** One clear line for what the operator can mend; the stack for what only we can. */
function explain(error: unknown): string {
  if (error instanceof StartupError) return error.message
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
