import type { Scope } from '../keys/scopes.ts'

/** THE LIST of event types, with what each one tells. */
export const EVENT_TYPES = {
  'instance.created': 'An instance was asked for and will be provisioned.',
  'instance.ready': 'The guest is up for the first time after its creation or a rebuild.',
  'instance.started': 'The guest is up again after a start.',
  'instance.rebooted': 'The guest is up again after a reboot.',
  'instance.stopped': 'The instance is powered off, by request or by its own guest.',
  'instance.terminated': 'The instance is gone for good.',
  'instance.scaled': 'The capacity of the instance has changed.',
  'instance.updated': 'The description of the instance has changed.',
  'instance.recovering': 'The machine failed and is being restarted.',
  'instance.recovered': 'The guest is up again after a failure.',
  'instance.failed': 'What is wanted cannot be reached; status_reason says why.',
  'webhook.disabled': 'An endpoint was disabled, because it asked for it (410) or failed for too long.',
  'webhook.ping': 'A test event that was asked for.',
} as const

export type EventType = keyof typeof EVENT_TYPES
/** The first word of a type: what it tells of. */
type Family = EventType extends `${infer F}.${string}` ? F : never

/** What a key needs besides, to see events of a family: what it needs to see the resource itself. */
export const FAMILY_SCOPES: Record<Family, Scope> = {
  instance: 'instances:read',
  webhook: 'webhooks:read',
}
