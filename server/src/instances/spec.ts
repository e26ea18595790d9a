import type { Deps } from '../deps.ts'
import type { MachineSpec } from '../drivers/driver.ts'
import { availability } from '../images/store.ts'
import { open } from '../lib/secret-box.ts'
import { findSubnet } from '../subnets/store.ts'
import { type InstanceRow, runOf } from './row.ts'

/** The machine that the desired state of this row describes, under the lease of a claim. */
export async function specOf(deps: Deps, row: InstanceRow, lease: number): Promise<MachineSpec> {
  const subnet = await findSubnet(deps.sql, row.environment_id, row.subnet_id)
  if (!subnet) throw new Error(`subnet ${row.subnet_id} of ${row.id} is missing`)
  const image = await availability(deps.sql, row.image_id, row.mode)
  return {
    id: row.id,
    lease,
    environment_id: row.environment_id,
    disk: row.wanted_disk,
    run: runOf(row),
    vcpus: row.wanted_vcpus,
    memory_bytes: row.wanted_memory_bytes,
    disk_bytes: row.wanted_disk_bytes,
    image: image.machine,
    hostname: row.hostname,
    ssh_public_keys: row.ssh_public_keys,
    user_data: row.user_data ? open(deps.secrets.seal_key, row.user_data) : null,
    network: {
      segment: subnet.segment ?? 0,
      mac: row.mac,
      private_ip: row.private_ip,
      prefix_length: Number(subnet.range.split('/')[1]),
      public_ip: row.wanted_public_ip,
      ports: row.ports,
    },
    tags: row.tags,
  }
}
