import type { Scope } from '../keys/scopes.ts'

/** Every event type with its description in the API. */
export const EVENT_TYPES = {
  'instance.created': 'The instance was created and will be provisioned.',
  'instance.ready': 'The guest is ready for the first time since the creation or a rebuild.',
  'instance.started': 'The guest is ready after a start.',
  'instance.rebooted': 'The guest is ready after a reboot.',
  'instance.stopped': 'The instance is powered off, by a request or by its guest.',
  'instance.terminated': 'The instance was terminated permanently.',
  'instance.scaled': 'The instance was resized.',
  'instance.updated': 'The name, tags or another field of the instance changed.',
  'instance.recovering': 'The machine failed and is being restarted.',
  'instance.recovered': 'The guest is ready after a failure.',
  'instance.failed': 'The desired state cannot be reached; `status_reason` gives the reason.',
  'webhook.disabled': 'CloudNexus disabled the webhook; `disabled_reason` gives the reason.',
  'webhook.ping': 'A test event, sent by the `ping` action.',
} as const

export type EventType = keyof typeof EVENT_TYPES
/** The first word of a type: the kind of resource. */
type Family = EventType extends `${infer F}.${string}` ? F : never

/** The scope that a key needs to read the events of a family: the scope that reads the resource itself. */
export const FAMILY_SCOPES: Record<Family, Scope> = {
  instance: 'instances:read',
  webhook: 'webhooks:read',
}
