import type { Deps, Region } from '../deps.ts'
import type { Driver } from '../drivers/driver.ts'
import type { InstanceRow } from './row.ts'

/** The region of this row. */
export function regionOf(deps: Pick<Deps, 'regions'>, row: Pick<InstanceRow, 'region'>): Region {
  const region = deps.regions.find((r) => r.id === row.region)
  if (!region) throw new Error(`no driver serves the region ${row.region}`)
  return region
}

/** The driver that serves this row's region and environment. */
export function driverOf(deps: Pick<Deps, 'regions'>, row: Pick<InstanceRow, 'region' | 'mode'>): Driver {
  return regionOf(deps, row).drivers[row.mode]
}
