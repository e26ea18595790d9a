/**
 * The composition root. Everything is opened here, each part as soon as what it needs is open; whatever can be refused is
 * refused first, before anything is created or takes time.
 */
import type { Server } from 'node:http'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { createApp } from './app.ts'
import type { Config, Settings } from './config.ts'
import type { Sql } from './db/database.ts'
import { createNotifier } from './db/notify.ts'
import type { Deps, Region } from './deps.ts'
import type { Driver } from './drivers/driver.ts'
import { proveAccelerator } from './drivers/qemu/accelerator.ts'
import { QemuDriver } from './drivers/qemu/driver.ts'
import { openEgress } from './drivers/qemu/egress.ts'
import { openScope } from './drivers/qemu/scope.ts'
import { createSimulatedDriver } from './drivers/simulated/driver.ts'
import { createEngines } from './engine/pools.ts'
import { WORK_CHANNEL } from './engine/work.ts'
import { connectionLimits, limitConnections } from './http/connections.ts'
import { compileWhenIdle, createRouteSchemas } from './http/lazy-schemas.ts'
import { CATALOGUE } from './images/catalog.ts'
import { releaseInterruptedUploads, syncCatalogue } from './images/store.ts'
import { removeIncomplete } from './images/upload.ts'
import { createKeyLookup } from './keys/lookup.ts'
import { atMost, systemClock as clock } from './lib/clock.ts'
import { StartupError } from './lib/errors.ts'
import { isAllowedFrom } from './lib/ip.ts'
import type { Log } from './lib/log.ts'
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
import { checkDiskSpace, freeBytes, openDataDir } from './start/data-dir.ts'
import { openDatabase } from './start/database.ts'
import { openFirstProject } from './start/first-project.ts'
import { descriptorLimit, hostFacts, imageSpaceBytes, type Limits, limitsOf, machineUid } from './start/host.ts'
import { type Installation, openInstallation } from './start/installation.ts'
import {
  checkListenAddress,
  checkProxies,
  defaultPublicUrl,
  listenError,
  ownPorts,
  sshPort,
} from './start/listen-address.ts'
import { lockDataDir } from './start/lock.ts'
import { checkPrograms, findProgram } from './start/programs.ts'
import { createReadiness } from './start/readiness.ts'
import { ensureMicroLinux } from './start/recipe.ts'
import { openRunDir } from './start/run-dir.ts'
import { openSecrets } from './start/secrets.ts'
import type { Shutdown } from './start/shutdown.ts'
import { openSshKey } from './start/ssh-key.ts'

// Limits of the shutdown steps; see start/shutdown.ts.
/** Longer than the deadlines of pending bodies and responses, see http/deadlines.ts. */
const DRAIN_MS = 4_500
const ENGINE_STOP_MS = 1_500
const REQUEST_LOG_STOP_MS = 500
const SMALL_STOP_MS = 100
/** Connections that wait to be accepted. The kernel drops more, and their clients retry after a second. */
const BACKLOG = 4_096
/** Between two log lines about refused connections. */
const REFUSED_LOG_MS = 10_000
/** Of each attempt to resolve a name. */
const RESOLVE_MS = 900

/** `take_over`: the data directory may take over the database of the one that it is a copy of. */
type Start = { settings: Settings; take_over: boolean; log: Log; shutdown: Shutdown }

/** Starts everything; resolves with the banner once requests are served and the engine runs. Rejects when a shutdown begins. */
export async function startControlPlane(start: Start): Promise<string> {
  const begin = clock.monotonic()
  const { settings, log, shutdown } = start
  const files = await openFiles(settings)
  const { config, installation, credentials, sshKey } = files
  shutdown.signal.throwIfAborted()
  const { database, image } = await openDatabaseAndImage(start, files)
  shutdown.signal.throwIfAborted()
  const { sql, owner } = database
  database.ownership.watch((reason) => {
    log.error({ reason }, 'the database was taken over; stopping')
    void shutdown.stop(1)
  })
  const limits = limitsOf(config.capacity, hostFacts(config.data_dir))
  const live = await createLiveDriver(start, files, limits, image)
  const test = createSimulatedDriver({ sql, seed: installation.seed })
  const drivers = [live, test]
  for (const driver of drivers) shutdown.add(`driver ${driver.name}`, SMALL_STOP_MS, () => driver.close())
  shutdown.signal.throwIfAborted()

  const public_addresses = config.public_addresses ?? installation.loopback_block
  await openFirstProject(owner, random, {
    region: config.region.id,
    public_addresses,
    keys: { live: credentials.live_key, test: credentials.test_key },
    pepper: files.secrets.pepper,
    ssh_public_key: sshKey.public_key,
  })
  await owner.begin((tx) => syncCatalogue(tx, CATALOGUE))
  await owner.begin((tx) => releaseInterruptedUploads(tx))
  await owner.end()
  shutdown.signal.throwIfAborted()

  const stopping = new AbortController()
  const deps = await createDeps(start, files, sql, { live, test }, stopping.signal)
  await serve(start, deps, installation, drivers, stopping)
  return banner({
    config,
    hypervisor: live.hypervisor(),
    isolation: live.isolation(),
    database: database.description,
    limits,
    public_addresses,
    ssh_port: await sshPort(public_addresses),
    credentials_file: credentials.file,
    ssh_key_file: sshKey.private_key_file,
    seconds: (clock.monotonic() - begin) / 1000,
  })
}

type Files = Awaited<ReturnType<typeof openFiles>>

/** Checks the host, locks the data directory and reads its files, or creates them at the first start. */
async function openFiles(settings: Settings) {
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
  return { config, installation, secrets, sshKey, credentials }
}

/**
 * Opens the database, and builds the built-in image at the first start: at the same time if the database is embedded, and
 * afterwards if it is the operator's, which may have to be corrected first.
 */
async function openDatabaseAndImage({ log, shutdown, take_over }: Start, { config, installation, secrets }: Files) {
  const opening = openDatabase(config, { installation, secrets, take_over }, { clock, log, closing: shutdown })
  if (config.database_url !== null) await opening
  const building = ensureMicroLinux(config.data_dir, (line) => process.stderr.write(`cloudnexus: ${line}\n`))
  // Both run to their end, so that the shutdown after a failure of one leaves no process of the other behind.
  await Promise.allSettled([opening, building])
  return { database: await opening, image: await building }
}

async function createLiveDriver(
  { log }: Start,
  { config, installation }: Files,
  limits: Limits,
  image: Awaited<ReturnType<typeof ensureMicroLinux>>,
): Promise<QemuDriver> {
  const { data_dir, run_dir } = config
  const network = {
    installation_id: installation.id,
    service_uid: machineUid(installation),
    multicast_group: installation.multicast_group,
    multicast_port_base: installation.multicast_port_base,
  }
  const filter = {
    ...network,
    data_dir,
    run_dir,
    refused_ports: ownPorts(config),
    allow: config.guest_allow,
    public_addresses: config.public_addresses === null ? [] : [config.public_addresses],
  }
  const egress = await openEgress(filter).catch((error: Error) => {
    throw new StartupError(`The packet filter for guests could not be set (${error.message}). Start again.`)
  })
  checkProxies(config.trusted_proxies, egress.unfiltered_reason)
  const qemu = {
    ...network,
    data_dir,
    run_dir,
    images_dir: join(data_dir, 'images'),
    qemu_binary: findProgram('qemu-system-x86_64')!,
    egress,
    scope: await openScope(installation.id),
    log,
    clock,
  }
  const proof = { ...qemu, mode: config.accelerator, image, cache_file: join(data_dir, 'accelerator.json') }
  const accelerator = await proveAccelerator(proof).catch((error: Error) => {
    throw new StartupError(error.message)
  })
  return new QemuDriver({ ...qemu, accelerator, limits })
}

async function createDeps(
  { log, shutdown }: Start,
  { config, secrets }: Files,
  sql: Sql,
  drivers: Region['drivers'],
  stopping: AbortSignal,
): Promise<Deps> {
  const notifier = createNotifier(sql, clock, WORK_CHANNEL)
  await notifier.start()
  // Not bound to a tenant: one batch holds rows of many.
  const requests = createRequestLog({ sql, clock, random, log, days: config.request_log_days })
  shutdown.add('request log', REQUEST_LOG_STOP_MS, (ms) => requests.stop(ms))
  const metrics = createMetrics()
  collectMetrics({ metrics, sql, clock, requests })
  return {
    config,
    sql,
    clock,
    random,
    log,
    secrets,
    notifier,
    requests,
    metrics,
    stopping,
    openConnection,
    imageSpaceBytes: () => imageSpaceBytes(config.data_dir),
    regions: [{ ...config.region, drivers }],
    keys: createKeyLookup({ sql, clock, pepper: secrets.pepper }),
    resolve: createResolve(RESOLVE_MS),
  }
}

/** Closes connections beyond what the descriptors of this process allow; logs it once in a while. */
function boundConnections(server: Server, { trusted_proxies }: Config, log: Log): void {
  let lastLogged = Number.NEGATIVE_INFINITY
  const isProxy = (address: string) => isAllowedFrom(trusted_proxies, address)
  const refused = (address: string, open: number) => {
    if (clock.monotonic() - lastLogged < REFUSED_LOG_MS) return
    lastLogged = clock.monotonic()
    log.warn({ address, open }, 'closed a connection: too many are open')
  }
  limitConnections(server, connectionLimits(descriptorLimit()), isProxy, refused)
}

/** Listens, adopts the machines that run, and starts the engine. */
async function serve(
  { shutdown, log }: Start,
  deps: Deps,
  installation: Installation,
  drivers: Driver[],
  stopping: AbortController,
): Promise<void> {
  const { config, sql, metrics, notifier } = deps
  const worker = `${hostname()}:${process.pid}:${installation.id}`
  const engine = createEngines({ sql, clock, log, worker, observer: engineObserver(metrics) }, pools(deps))
  shutdown.add('engine', ENGINE_STOP_MS, (ms) => engine.stop(ms))
  const readiness = createReadiness({ sql, engine, clock, freeBytes: () => freeBytes(config.data_dir) })
  const schemas = createRouteSchemas()
  const app = await createApp(deps, { ready: readiness.check, schemas })
  shutdown.add('requests', DRAIN_MS, async (ms) => {
    stopping.abort()
    const closed = app.close()
    await notifier.stop()
    await atMost(clock, ms, closed)
    app.server.closeAllConnections()
  })
  if (config.metrics_listen !== null) {
    const listener = await listenForPrometheus(metrics, config.metrics_listen)
    shutdown.add('metrics', SMALL_STOP_MS, async () => void listener.close().closeAllConnections())
  }
  boundConnections(app.server, config, log)
  removeIncomplete(config)
  await app.listen({ host: config.host, port: config.port, backlog: BACKLOG }).catch((error: NodeJS.ErrnoException) => {
    throw listenError(error, config.host, config.port)
  })

  shutdown.signal.throwIfAborted()
  await Promise.all(drivers.map((driver) => driver.adopt()))
  shutdown.signal.throwIfAborted()
  for (const driver of drivers) watchDriver(deps, engine, driver)
  readiness.adopted()
  await engine.start()
  await wakeAtStart(deps)
  void compileWhenIdle(schemas, { clock, log, signal: stopping.signal })
}
