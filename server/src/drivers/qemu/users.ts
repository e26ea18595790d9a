/** The user IDs of machines. Pure. */

/** Number of user IDs, from `service_uid` on. */
export const MACHINE_USERS = 60_000
