/** Preloaded by `npm run test:long`: properties that set no number of cases run ten times as many. */
import fc from 'fast-check'

fc.configureGlobal({ ...fc.readConfigureGlobal(), numRuns: 1_000 })
