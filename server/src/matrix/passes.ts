/** A first run without a fault records the passes of a subject. The cells of the matrix are derived from them. */
import type { ObservedMachine } from '../drivers/driver.ts'
import type { Claim } from '../engine/work.ts'
import { availability } from '../images/store.ts'
import { decide } from '../instances/decide.ts'
import { observed } from '../instances/observe.ts'
import { statusOf } from '../instances/status.ts'
import { load } from '../instances/store.ts'
import { faultsAt, type Point, type Script } from './faults.ts'
import type { MatrixWorld, Worker } from './world.ts'

/** One pass: its step (of an instance), the status change that it recorded, and its points. */
export type Pass = { step: string; statuses: string; points: Point[] }
/** One fault at one point of one pass. */
export type Cell = Script & { step: string }

/** Each point of each distinct pass × its faults. */
export function cellsOf(passes: Pass[]): Cell[] {
  const known = new Set<string>()
  const met = new Map<Point, number>()
  const cells: Cell[] = []
  for (const { step, statuses, points } of passes) {
    const kind = [step, statuses, ...points].join()
    for (const point of points) {
      const nth = (met.get(point) ?? 0) + 1
      met.set(point, nth)
      if (!known.has(kind)) cells.push(...faultsAt(point).map((fault) => ({ step, point, nth, fault })))
    }
    known.add(kind)
  }
  return cells
}

/** Records all passes of the subject with this name while `work` runs a worker. */
export async function recordPasses(
  world: MatrixWorld,
  name: string,
  work: (worker: Worker) => Promise<void>,
): Promise<Pass[]> {
  const passes: Pass[] = []
  const isSubject = ({ kind, id }: Claim) => `${kind} ${id}` === name
  const subject = world.faults.arm(name, null)
  subject.visited = (point) => void passes.at(-1)?.points.push(point)
  world.watch.pass = (claimed) => {
    if (isSubject(claimed)) passes.push({ step: 'pass', statuses: '', points: [] })
  }
  world.watch.observed = async (claimed, machine) => {
    const pass = passes.at(-1)
    if (!isSubject(claimed) || pass?.step !== 'pass') return
    if (claimed.kind === 'instance') Object.assign(pass, await decisionOf(world, claimed, machine))
  }
  const worker = await world.worker('recorder')
  await work(worker)
  await worker.engine.stop(1_000)
  Object.assign(world.watch, { pass: undefined, observed: undefined })
  subject.visited = null
  return passes
}

/** What the pass decides and records. */
async function decisionOf({ owner }: MatrixWorld, claimed: Claim, machine: ObservedMachine | null) {
  const row = (await load(owner, claimed.id))!
  const image = await availability(owner, row.image_id, row.mode)
  const next = { ...row, ...observed(row, machine, claimed.now) }
  return { step: decide(next, machine, image, claimed.now).do, statuses: `${row.status} ${statusOf(next).status}` }
}
