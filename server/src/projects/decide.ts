/** The next step towards the end of a project that is being deleted, from what remains of it. Pure. */

/** What remains of a project in both environments. */
export type Remains = {
  /** Instances and webhooks that were created while the request to delete the project ran. */
  open: number
  /** Instances that are not terminated. */
  instances: number
  /** Machines of its instances that a driver lists; null while instances are not terminated. */
  machines: readonly string[] | null
  /** Rows of terminated instances. */
  terminated: number
  /** Images and webhooks, whose reconcilers delete them. */
  images: number
  webhooks: number
}

export type Step =
  | { do: 'close' }
  | { do: 'wait' }
  | { do: 'delete_machines'; ids: readonly string[] }
  | { do: 'delete_images' }
  | { do: 'purge' }

/**
 * Level-triggered: a pass after a crash at any line decides the same. Machines end before anything that they use; images
 * follow the rows of the instances that refer to them; rows follow when nothing refers to them.
 */
export function decide({ open, instances, machines, terminated, images, webhooks }: Remains): Step {
  if (open > 0) return { do: 'close' }
  if (instances > 0 || machines === null) return { do: 'wait' }
  if (machines.length > 0) return { do: 'delete_machines', ids: machines }
  if (terminated > 0) return { do: 'purge' }
  if (images > 0) return { do: 'delete_images' }
  return webhooks > 0 ? { do: 'close' } : { do: 'purge' }
}
