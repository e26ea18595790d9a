/** A probe that runs beside a test: no instance ever has two QEMU processes. */
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'

export type ProcessProbe = {
  /** The instances that had two processes at once, so far. */
  seen(): string[]
  /** The same, and looks no more. */
  stop(): string[]
}

export function probeMachines(dataDir: string): ProcessProbe {
  const twice: string[] = []
  const watcher = new Worker(join(import.meta.dirname, 'process-watcher.ts'), { workerData: { data_dir: dataDir } })
  watcher.on('message', (what: string) => twice.push(what))
  watcher.on('error', (error) => twice.push(`the probe is broken: ${error}`))
  watcher.unref()
  return {
    seen: () => [...twice],
    stop() {
      void watcher.terminate()
      return [...twice]
    },
  }
}
