/** A probe that runs during a test and finds instances with two QEMU processes, also when one of them lives briefly. */
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads'
import type { WatchData } from './machine-watch.ts'

/** Indexes of the flags: this thread requests the end, and the other one reports it. */
const STOP = 0
const ENDED = 1
const END_MS = 5_000

export type MachineProbe = {
  /** The instances that have had two processes at the same time. */
  findings(): string[]
  /** Reads the processes once more and stops; returns all findings. */
  stop(): string[]
}

/** Starts a probe, which runs until it is stopped. */
export function probeMachines(dataDir: string): MachineProbe {
  const { port1, port2 } = new MessageChannel()
  const flags = new Int32Array(new SharedArrayBuffer(8))
  const data: WatchData = { data_dir: dataDir, port: port2, flags }
  const watch = new Worker(new URL('machine-watch.ts', import.meta.url), { workerData: data, transferList: [port2] })
  const found: string[] = []
  watch.unref() // its errors fail the test
  port1.unref()
  function findings(): string[] {
    for (let next = receiveMessageOnPort(port1); next; next = receiveMessageOnPort(port1)) found.push(next.message)
    return [...found]
  }
  return {
    findings,
    stop() {
      Atomics.store(flags, STOP, 1)
      Atomics.notify(flags, STOP)
      if (Atomics.wait(flags, ENDED, 0, END_MS) === 'timed-out') throw new Error('the watch of processes does not end')
      return findings()
    },
  }
}
