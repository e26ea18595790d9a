/** A first run without a fault: what a thing's looks do, and from that the cells of the matrix. */
import type { ObservedMachine } from '../drivers/driver.ts'
import type { Claim } from '../engine/work.ts'
import { availability } from '../images/store.ts'
import { decide } from '../instances/decide.ts'
import { observed } from '../instances/observe.ts'
import { statusOf } from '../instances/status.ts'
import { load } from '../instances/store.ts'
import { faultsAt, type Point, type Script } from './faults.ts'
import type { MatrixWorld, Worker } from './world.ts'

/** What one look did: its step, where it is an instance's, the move of the status that it recorded, and its points. */
export type Look = { step: string; moves: string; points: Point[] }
/** One fault at one point of one look. */
export type Cell = Script & { step: string }

/** Each point of each look that is not like one before × its faults. */
export function cellsOf(looks: Look[]): Cell[] {
  const known = new Set<string>()
  const met = new Map<Point, number>()
  const cells: Cell[] = []
  for (const { step, moves, points } of looks) {
    const kind = [step, moves, ...points].join()
    for (const point of points) {
      const nth = (met.get(point) ?? 0) + 1
      met.set(point, nth)
      if (!known.has(kind)) cells.push(...faultsAt(point).map((fault) => ({ step, point, nth, fault })))
    }
    known.add(kind)
  }
  return cells
}

/** Notes all looks at the subject of this name while `work` has a worker look. */
export async function rehearse(
  world: MatrixWorld,
  name: string,
  work: (worker: Worker) => Promise<void>,
): Promise<Look[]> {
  const looks: Look[] = []
  const isMeant = ({ kind, id }: Claim) => `${kind} ${id}` === name
  const subject = world.faults.arm(name, null)
  subject.visited = (point) => void looks.at(-1)?.points.push(point)
  world.watch.look = (claimed) => {
    if (isMeant(claimed)) looks.push({ step: 'look', moves: '', points: [] })
  }
  world.watch.seen = async (claimed, machine) => {
    const look = looks.at(-1)
    if (!isMeant(claimed) || look?.step !== 'look') return
    if (claimed.kind === 'instance') Object.assign(look, await decisionOf(world, claimed, machine))
  }
  const worker = await world.worker('rehearsal')
  await work(worker)
  await worker.engine.stop(1_000)
  Object.assign(world.watch, { look: undefined, seen: undefined })
  subject.visited = null
  return looks
}

/** What a look will decide and record. */
async function decisionOf({ owner }: MatrixWorld, claimed: Claim, machine: ObservedMachine | null) {
  const row = (await load(owner, claimed.id))!
  const image = await availability(owner, row.image_id, row.mode)
  const seen = { ...row, ...observed(row, machine, claimed.now) }
  return { step: decide(seen, machine, image, claimed.now).do, moves: `${row.status} ${statusOf(seen).status}` }
}
