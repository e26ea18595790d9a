import { systemClock } from '../../lib/clock.ts'
import { conformance } from '../conformance.ts'
import { look } from './machine.ts'
import { killProcess } from './process.ts'
import { makeWorld } from './testing.ts'

conformance('qemu', async () => {
  const world = await makeWorld()
  return {
    driver: world.driver,
    now: () => systemClock.now(),
    advance: (milliseconds) => systemClock.sleep(milliseconds),
    spec: world.spec,
    publicAddress: world.publicAddress,
    reopen: world.reopen,
    cleanup: world.remove,
    async crash(id) {
      const found = await look(world.options, id)
      await killProcess(found!.process!, 5000, systemClock)
    },
  }
})
