import { describe } from 'vitest'

import { type Platform, boundarySuite } from '../support/boundary-suite.js'
import { stateSuite } from '../support/state-suite.js'
import workerUrl from '../support/fake-worker-browser.ts?worker&url'

const platform: Platform = {
  worker: () => workerUrl,
  missingWorker: () => new URL('/missing.js', location.href),
  makeWorker: () => new Worker(workerUrl, { type: 'module' }),
}

boundarySuite(platform)
describe('rooms with a doorman', () => stateSuite(platform))
