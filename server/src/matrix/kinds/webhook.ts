import type { Creation, Kind, Workflow } from '../workflow.ts'

/** Creates a webhook. The path of its URL decides how the receiver responds: `gone` returns 410. */
const createWebhook =
  (path: string) =>
  async ({ post, receiverUrl }: Creation): Promise<string> =>
    post('/v2/webhooks', { url: `${await receiverUrl()}${path}`, events: ['instance.*'] })

const workflow = { mode: 'test' as const, create: createWebhook(''), from: [{ until: 'idle' }] }

const workflows: Workflow[] = [
  {
    ...workflow,
    name: 'deliver an event',
    request: (id) => ['POST', `/v2/webhooks/${id}/ping`],
    goal: 'delivered',
  },
  {
    ...workflow,
    name: 'disable a webhook whose endpoint returns 410',
    create: createWebhook('gone'),
    request: (id) => ['POST', `/v2/webhooks/${id}/ping`],
    goal: 'disabled',
  },
  {
    ...workflow,
    name: 'delete a webhook',
    request: (id) => ['DELETE', `/v2/webhooks/${id}`],
    goal: 'gone',
  },
]

export const webhook: Kind = {
  name: 'webhook',
  path: '/v2/webhooks',
  scopes: ['webhooks:read', 'webhooks:write', 'instances:read'],
  states: (owner, ids) => owner<{ id: string; state: string }[]>`
    select w.id, case when w.observed_disabled_reason is not null then 'disabled'
        when count(d.id) = 0 then 'idle'
        when count(d.id) = count(d.id) filter (where d.status = 'succeeded') then 'delivered' else 'pending' end as state
    from webhooks w left join webhook_deliveries d on d.webhook_id = w.id where w.id = any(${ids}) group by w.id`,
  absent: 'gone',
  deleted: 'gone',
  workflows,
}
