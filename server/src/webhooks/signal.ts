/** Resumes one waiter. A signal that is set while nothing waits ends the next wait immediately. */
export function createSignal() {
  let isSet = false
  let wake: (() => void) | null = null
  return {
    set() {
      isSet = true
      wake?.()
    },
    async wait() {
      if (!isSet) {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
      wake = null
      isSet = false
    },
  }
}
