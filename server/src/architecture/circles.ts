/** Circles of imports, between files and between folders. */
import { dirname } from 'node:path'
import { isOurs, isTestCode, type Source } from './source.ts'

/** What each file imports; `types` includes imports of types only. */
export function fileGraph(files: Source[], { types }: { types: boolean }): Map<string, string[]> {
  return new Map(
    files.map(({ path, imports }) => [
      path,
      imports.filter((each) => isOurs(each.from) && (types || !each.typeOnly)).map((each) => each.from),
    ]),
  )
}

/** Which folders import values of which others. A file beside the folders stands for itself. Test code is left out. */
export function folderGraph(files: Source[]): Map<string, string[]> {
  const graph = new Map<string, string[]>()
  for (const [path, imports] of fileGraph(
    files.filter((file) => !isTestCode(file.path)),
    { types: false },
  )) {
    const folder = nodeOf(path)
    const others = imports.map(nodeOf).filter((other) => other !== folder)
    graph.set(folder, [...new Set([...(graph.get(folder) ?? []), ...others])])
  }
  return graph
}

/** One text `a → b → a` for each circle that a walk through the graph finds; none exactly when there is no circle. */
export function circles(graph: Map<string, string[]>): string[] {
  const done = new Set<string>()
  const found: string[] = []
  const visit = (node: string, trail: string[]) => {
    if (trail.includes(node)) return void found.push([...trail.slice(trail.indexOf(node)), node].join(' → '))
    if (done.has(node)) return
    for (const next of graph.get(node) ?? []) visit(next, [...trail, node])
    done.add(node)
  }
  for (const node of graph.keys()) visit(node, [])
  return found
}

function nodeOf(path: string): string {
  return path.includes('/') ? dirname(path) : path
}
