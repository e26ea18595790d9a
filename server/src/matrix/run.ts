/**
 * Runs one workflow once without a fault, and records each pass with its step and its points. The cells are each point of
 * each distinct pass × each fault that the point can have. Then it runs all cells at once, each on a resource of its own.
 * In the end each resource must have the expected state, and the audit must find nothing.
 */
import { audit } from '../testing/audit.ts'
import { throughFaults } from './drive.ts'
import type { Fault } from './faults.ts'
import { type Cell, cellsOf, recordPasses } from './passes.ts'
import { createScene, type Scene } from './scene.ts'
import type { Kind, Workflow } from './workflow.ts'
import type { MatrixWorld } from './world.ts'

export type Report = { cells: Cell[]; findings: string[] }

/** Runs a workflow's cells. @param only leaves out other faults */
export async function runWorkflow(world: MatrixWorld, kind: Kind, workflow: Workflow, only?: Fault[]): Promise<Report> {
  const scene = await createScene(world, kind, workflow)
  const endsDeleted = [kind.deleted, kind.absent].includes(workflow.goal)
  const cells = cellsOf(await passesWithoutFault(scene)).filter(
    ({ fault }) => (!only || only.includes(fault)) && !(fault === 'changed_meanwhile' && endsDeleted),
  )
  const ids = await scene.prepare(cells.length)
  const subjects = cells.map((cell, i) => {
    const subject = world.faults.arm(scene.nameOf(ids[i]!), cell)
    subject.meanwhile = () => scene.delete(ids[i]!)
    return subject
  })
  let acted = false
  await throughFaults(world, scene.environment_id, subjects, async (worker) => {
    if (!acted) await scene.act(ids)
    acted = true
    await scene.drive(worker)
  })

  const findings: string[] = []
  const states = await scene.states(ids)
  for (const [i, cell] of cells.entries()) {
    const { step, point, fault } = cell
    const at = `${workflow.name}: ${step}, ${point} ${cell.nth}, ${fault}`
    if (!subjects[i]!.fired) findings.push(`${at}: the fault did not occur`)
    const goals = goalsOf(kind, workflow, fault)
    if (!goals.includes(states[i]!)) findings.push(`${at}: ${ids[i]} is ${states[i]}, not ${goals.join(' or ')}`)
  }
  const nameOfCell = new Map(ids.map((id, i) => [id, `${cells[i]!.step}, ${cells[i]!.point}, ${cells[i]!.fault}`]))
  for (const line of await audit(world.owner, scene.environment_id)) {
    findings.push(`${workflow.name}: ${line} (${nameOfCell.get(line.split(':')[0]!) ?? 'no cell'})`)
  }
  return { cells, findings }
}

function goalsOf({ deleted }: Kind, { goal, or }: Workflow, fault: Fault): string[] {
  if (fault === 'changed_meanwhile') return [deleted]
  return [goal, ...(or ? [or] : []), ...(fault === 'refused' ? ['failed'] : [])]
}

/** The passes of the workflow when no fault occurs. */
async function passesWithoutFault({ world, workflow, ...scene }: Scene) {
  const [id] = await scene.prepare(1)
  const passes = await recordPasses(world, scene.nameOf(id!), async (worker) => {
    await scene.act([id!])
    await scene.drive(worker)
  })
  const [state] = await scene.states([id!])
  if (state !== workflow.goal) throw new Error(`the run without a fault of ${workflow.name} ended in ${state}`)
  return passes
}
