import { basename } from 'node:path'
import { systemClock } from '../../lib/clock.ts'
import { conformance, type Harness } from '../conformance.ts'
import { findMachine } from './machine.ts'
import { instancesFolder, writeJson } from './machine-files.ts'
import { findMachineProcesses, killProcess } from './process.ts'
import { makeWorld } from './testing.ts'

async function makeHarness(): Promise<Harness> {
  const world = await makeWorld()
  return {
    driver: world.driver,
    now: () => systemClock.now(),
    advance: (milliseconds) => systemClock.sleep(milliseconds),
    spec: world.spec,
    publicAddress: world.publicAddress,
    reopen: world.reopen,
    cleanup: world.remove,
    failing: {
      panic: { user_data: Buffer.from('#!/bin/sh\nsleep 3\necho c >/proc/sysrq-trigger\n') },
      // As if no process of the guest were scheduled any more.
      hang: { user_data: Buffer.from('#!/bin/sh\nsleep 5\nkillall -STOP heartbeat\n') },
    },
    async rebootHost() {
      for (const { folder, process } of await findMachineProcesses(instancesFolder(world.options))) {
        const { paths, run } = (await findMachine(world.options, basename(folder)))!
        await killProcess(process, 5000, systemClock)
        await writeJson(paths.run_file, { ...run, process: { ...process, boot_id: 'previous boot' } })
      }
    },
    async crash(id) {
      const found = await findMachine(world.options, id)
      await killProcess(found!.process!, 5000, systemClock)
    },
  }
}

conformance('qemu', makeHarness, { disk_error: 'a test cannot make a disk fail' })
