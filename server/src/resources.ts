import { auditLog } from './audit/routes.ts'
import { events } from './events/routes.ts'
import type { Resource } from './http/types.ts'
import { images } from './images/routes.ts'
import { instanceEvents } from './instances/event-routes.ts'
import { recoveries } from './instances/recovery-routes.ts'
import { instances } from './instances/routes.ts'
import { apiKeys } from './keys/routes.ts'
import { limits } from './limits/routes.ts'
import { plans } from './plans/routes.ts'
import { projects } from './projects/routes.ts'
import { prometheus } from './prometheus/routes.ts'
import { regions } from './regions/routes.ts'
import { requests } from './requests/routes.ts'
import { sshKeys } from './ssh-keys/routes.ts'
import { statusPage } from './status-page/routes.ts'
import { subnets } from './subnets/routes.ts'
import { webhooks } from './webhooks/routes.ts'

/** THE LIST: what the server consists of, in the order of the OpenAPI document. */
export const resources: Resource[] = [
  instances,
  recoveries,
  regions,
  plans,
  images,
  subnets,
  sshKeys,
  webhooks,
  events,
  instanceEvents,
  limits,
  auditLog,
  requests,
  prometheus,
  apiKeys,
  projects,
  statusPage,
]
