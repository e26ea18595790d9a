/** Seeds that once failed, with what they found: they are run always. A change of the simulation changes what they do. */
export const REGRESSIONS: readonly { seed: number; steps: number; found: string }[] = []
