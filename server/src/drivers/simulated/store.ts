import type { Sql } from '../../db/database.ts'
import { type MachineRef, TransientError } from '../driver.ts'
import type { Machine } from './machine.ts'

type Key = Omit<MachineRef, 'now'>

/** The table of simulated machines. */
export function createMachineStore(sql: Sql) {
  /** Whether the claim is the newest; remains so until the statement ends. */
  const isNewest = (id: string, lease: number | undefined) =>
    lease === undefined
      ? sql`true`
      : sql`exists (select from work where kind = 'instance' and id = ${id} and lease = ${lease} for share)`

  return {
    list: async () => await sql<{ id: string }[]>`select id from simulated_machines`,

    /** Null when the machine does not exist. */
    async load({ id, environment_id }: Key): Promise<Machine | null> {
      const [row] = await sql.as(environment_id)<{ machine: Machine }[]>`
        select machine from simulated_machines where id = ${id}`
      return row?.machine ?? null
    },

    /** Throws TransientError when the claim is no longer the newest. */
    async save({ id, environment_id, lease }: Key, machine: Machine): Promise<void> {
      const { count } = await sql.as(environment_id)`
        insert into simulated_machines (id, environment_id, machine)
        select ${id}, ${environment_id}, ${sql.json(machine)}::jsonb where ${isNewest(id, lease)}
        on conflict (id) do update set machine = excluded.machine`
      if (count === 0) throw new TransientError('superseded', 'A newer claim has taken over the machine.')
    },

    /** No effect when the claim is no longer the newest. */
    async remove({ id, environment_id, lease }: Key): Promise<void> {
      // The orphan sweep passes no environment.
      const query = environment_id === '' ? sql : sql.as(environment_id)
      await query`delete from simulated_machines where id = ${id} and ${isNewest(id, lease)}`
    },
  }
}
