import type { Scope } from '../keys/scopes.ts'

/** The list of event types, each with its description in the API and what its `details` contain. */
export const EVENT_TYPES = {
  'instance.created': 'The instance was created and will be provisioned.',
  'instance.ready': 'The guest is ready for the first time since the creation or a rebuild.',
  'instance.started': 'The guest is ready after a start.',
  'instance.rebooted': 'The guest is ready after a reboot.',
  'instance.stopped': 'The instance is powered off, by a request or by its guest.',
  'instance.terminated': 'The instance was terminated permanently.',
  'instance.scaled':
    'The instance was resized. `details` has `from` and `to`, each with plan, vcpus, memory_bytes and disk_bytes.',
  'instance.updated': 'The name, tags or another field of the instance changed.',
  'instance.recovering':
    'The machine failed and is being restarted. `details` has `cause`, `attempt` and `detected_at`.',
  'instance.recovered':
    'The guest is ready after a failure. `details` has `cause`, `attempt`, `detected_at` and `downtime_seconds`.',
  'instance.failed': 'The desired state cannot be reached; `status_reason` gives the reason.',
  'api_key.expiring':
    'The key ends within seven days, because it expires or was rotated. Emitted once for each end: seven days before it, or within a minute if the end was set later than that.',
  'webhook.disabled': 'CloudNexus disabled the webhook. `details` has the `reason`.',
  'webhook.ping': 'A test event, sent by the `ping` action.',
} as const

export type EventType = keyof typeof EVENT_TYPES
/** The first word of a type: the kind of resource. */
export type EventFamily = EventType extends `${infer F}.${string}` ? F : never

/** The scope that a key needs to read the events of a family: the scope that reads the resource itself. */
export const FAMILY_SCOPES: Record<EventFamily, Scope> = {
  instance: 'instances:read',
  api_key: 'keys:read',
  webhook: 'webhooks:read',
}
