/** The user and group IDs of machines and images. Pure. */

/** Number of IDs, from `service_uid` on: */
export const MACHINE_USERS = 60_000
/** first the users of machines, */
export const MACHINE_NUMBERS = 50_000
/** then the groups of images. */
export const IMAGE_GROUPS = MACHINE_USERS - MACHINE_NUMBERS
