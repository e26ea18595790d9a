// The status page of one instance. The key is kept only in this module's memory; everything from the API is
// inserted as text, never as markup.

const STATUSES = {
  provisioning: 'busy',
  running: 'good',
  stopping: 'busy',
  stopped: 'idle',
  starting: 'busy',
  rebooting: 'busy',
  resizing: 'busy',
  recovering: 'busy',
  failed: 'bad',
  terminating: 'busy',
  terminated: 'idle',
}
const WAIT_SECONDS = 15
const PAUSE_MS = 1000
const LOG_INTERVAL_MS = 3000
const LOG_LINES = 80

const id = /^\/console\/instances\/(inst_[0-9a-z]{10})$/.exec(location.pathname)?.[1] ?? null
const element = (name) => document.getElementById(name)
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const seen = []
let key = ''

class RequestError extends Error {}

element('id').textContent = id ?? ''
if (id === null) showForm('This URL contains no valid instance ID.')

element('key-form').addEventListener('submit', async (event) => {
  event.preventDefault()
  if (id === null) return
  key = element('key').value.trim()
  element('key').value = ''
  notice('')
  try {
    show(await get(`/v2/instances/${id}`))
    element('key-form').hidden = true
    element('details').hidden = false
    await Promise.all([followStatus(), followLog()])
  } catch (error) {
    key = ''
    showForm(
      error instanceof RequestError ? error.message : 'The control plane is not responding. Check that it is running.',
    )
  }
})

/** Shows the form again, with an error message. */
function showForm(message) {
  element('key-form').hidden = id === null
  element('details').hidden = true
  notice(message)
}

function notice(message) {
  element('notice').textContent = message
  element('notice').hidden = message === ''
}

/** Long-polls for status changes and shows them, until the instance is terminated. */
async function followStatus() {
  for (;;) {
    const status = seen.at(-1).status
    if (status === 'terminated') return
    await pause(PAUSE_MS)
    const others = Object.keys(STATUSES).filter((other) => other !== status)
    try {
      const instance = await get(`/v2/instances/${id}?wait_for=${others.join(',')}&timeout=${WAIT_SECONDS}`)
      notice('')
      show(instance)
      // The request returns immediately for a failed instance.
      if (instance.status === status) await pause(status === 'failed' ? 4 * PAUSE_MS : 0)
    } catch (error) {
      if (error instanceof RequestError) throw error
      notice('The control plane is not responding. Retrying…')
      await pause(2 * PAUSE_MS)
    }
  }
}

async function followLog() {
  while (seen.at(-1).status !== 'terminated') {
    if (!document.hidden) await showLog().catch(() => {})
    await pause(LOG_INTERVAL_MS)
  }
}

async function showLog() {
  const response = await call(`/v2/instances/${id}/console_log?tail=${LOG_LINES}`)
  if (!response.ok) return
  const log = element('log')
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8
  log.textContent = plain(await response.text()) || 'No output yet.'
  if (atEnd) log.scrollTop = log.scrollHeight
}

/** Removes terminal control sequences. */
function plain(text) {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern matches control characters
  const escapes = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|.)/g
  return text.replace(escapes, '').replace(/(?![\n\t])\p{Cc}/gu, '')
}

function call(path) {
  return fetch(path, { headers: { authorization: `Bearer ${key}` }, cache: 'no-store', credentials: 'omit' })
}

async function get(path) {
  const response = await call(path)
  if (response.ok) return response.json()
  if (response.status === 401) throw new RequestError('This API key is invalid, expired or revoked.')
  const problem = await response.json().catch(() => ({}))
  if (response.status >= 500 || response.status === 429) throw new Error(problem.detail)
  throw new RequestError(problem.detail ?? 'The request was rejected.')
}

function show(instance) {
  if (seen.at(-1)?.status !== instance.status) seen.push({ status: instance.status, at: instance.updated_at })
  document.title = `${instance.name} · ${instance.status}`
  element('title').textContent = instance.name
  element('status').textContent = instance.status
  element('dot').className = `dot ${STATUSES[instance.status] ?? ''}`
  element('reason').textContent = instance.status_reason?.message ?? ''
  element('reason').hidden = !instance.status_reason
  element('login').hidden = !instance.ssh
  if (instance.ssh) element('ssh').textContent = sshLine(instance.ssh)
  element('facts').replaceChildren(...facts(instance).flatMap(([name, value]) => [text('dt', name), text('dd', value)]))
  element('timeline').replaceChildren(...timeline(instance).map(({ at, what }) => moment(at, what)))
}

function sshLine({ user, host, port }) {
  return port === 22 ? `ssh ${user}@${host}` : `ssh -p ${port} ${user}@${host}`
}

function facts(instance) {
  const ports = instance.network.ports.filter((entry) => entry.public_port !== null)
  const reachable = ports.map(({ port, public_port }) => (port === public_port ? port : `${port} at ${public_port}`))
  return [
    ['Public IP address', instance.public_ip ?? 'none'],
    ['Open ports', reachable.join(', ') || 'none'],
    ['Private IP address', instance.private_ip ?? 'none'],
    ['Plan', instance.plan],
    ['Image', instance.image],
    ['Region', instance.region],
    ['Environment', instance.environment],
    [
      'Tags',
      Object.entries(instance.tags)
        .map(([name, value]) => `${name}: ${value}`)
        .join(', ') || 'none',
    ],
  ]
}

/** The timestamps of the instance, and the status changes observed since the page was opened. */
function timeline(instance) {
  const recorded = [
    { at: instance.created_at, what: 'created' },
    { at: instance.ready_at, what: 'ready' },
    { at: instance.terminated_at, what: 'terminated' },
  ]
  const observed = seen.slice(1).map(({ status, at }) => ({ at, what: status }))
  return [...recorded.filter(({ at }) => at), ...observed.filter(({ what }) => what !== 'terminated')].sort((a, b) =>
    a.at < b.at ? -1 : 1,
  )
}

function text(tag, content) {
  const node = document.createElement(tag)
  node.textContent = content
  return node
}

function moment(at, what) {
  const item = document.createElement('li')
  const time = text('time', new Date(at).toLocaleString())
  time.dateTime = at
  item.append(time, text('span', what))
  return item
}
