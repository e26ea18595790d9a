import type { Static } from 'typebox'
import type { Config } from '../config.ts'
import { timeOrNull, timestamp } from '../lib/timestamp.ts'
import { otherFieldNames, pickFields } from './fields.ts'
import type { InstanceRow } from './row.ts'
import type { Instance } from './schema.ts'
import { poweredItselfOff } from './status.ts'

/** Time-to-live of a terminated instance: 24 hours of its environment's time. */
export const TERMINATED_TTL_SECONDS = 24 * 3600

/** An instance as the API shows it. */
export function present(row: InstanceRow, config: Pick<Config, 'public_url'>): Static<typeof Instance> {
  const publicPort = (port: number) => row.observed_ports.find((p) => p.guest_port === port)?.host_port ?? null
  const sshPort = publicPort(22)
  const terminated = row.terminated_at !== null
  return {
    id: row.id,
    status: row.status,
    region: row.region,
    plan: row.wanted_plan,
    public_ip: terminated ? null : row.wanted_public_ip,
    created_at: timestamp(row.created_at),
    links: {
      self: `${config.public_url}/v2/instances/${row.id}`,
      console: `${config.public_url}/console/instances/${row.id}`,
    },
    name: row.name,
    hostname: row.hostname,
    image: row.image,
    image_id: row.image_id,
    private_ip: terminated ? null : row.private_ip,
    network: {
      subnet_id: row.subnet_id,
      assign_public_ip: row.wanted_public_ip !== null,
      ports: row.ports.map((port) => ({ port, public_port: publicPort(port) })),
    },
    tags: row.tags,
    status_reason: row.status_reason,
    desired_status: row.wanted_power === 'stopped' || poweredItselfOff(row) ? 'stopped' : 'running',
    deployment_id: row.deployment_id,
    ...pickFields(row, otherFieldNames),
    ready_timeout_seconds: row.ready_timeout_seconds,
    ssh: row.observed_public_ip && sshPort ? { user: row.ssh_user, host: row.observed_public_ip, port: sshPort } : null,
    environment: row.mode,
    ready_at: timeOrNull(row.ready_at),
    terminated_at: timeOrNull(row.terminated_at),
    expires_at: timeOrNull(row.expires_at),
    created_by: row.created_by,
    updated_at: timestamp(row.updated_at),
    version: row.version,
  }
}

/** The actions that are allowed in this state; part of every `invalid_state` error. */
export function allowedActions(row: InstanceRow): string[] {
  switch (row.status) {
    case 'running':
      return ['stop', 'reboot', 'rebuild']
    case 'stopped':
      return ['start', 'rebuild']
    case 'failed':
      return ['start', 'rebuild']
    case 'provisioning':
    case 'starting':
    case 'rebooting':
    case 'recovering':
      return ['stop']
    default:
      return []
  }
}
