/** Permissions of keys. `read` does not include `write`, and `write` does not include `read`. */
export const SCOPES = [
  'instances:read',
  'instances:write',
  'instances:console',
  'deployments:read',
  'deployments:write',
  'scaling:read',
  'scaling:write',
  'webhooks:read',
  'webhooks:write',
  'images:read',
  'images:write',
  'network:read',
  'network:write',
  'ssh_keys:read',
  'ssh_keys:write',
  'events:read',
  'requests:read',
  'metrics:read',
  'metrics:write',
  'keys:read',
  'keys:write',
  'audit:read',
  'test:write',
  'admin',
] as const

export type Scope = (typeof SCOPES)[number]
