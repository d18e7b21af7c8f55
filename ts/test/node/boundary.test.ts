import { Worker } from 'node:worker_threads'

import { describe } from 'vitest'

import { type Platform, boundarySuite } from '../support/boundary-suite.js'
import { stateSuite } from '../support/state-suite.js'

const worker = new URL('../../../target/ts-test/fake-worker-node.js', import.meta.url)

const platform: Platform = {
  worker: () => worker,
  missingWorker: () => new URL('missing.js', import.meta.url),
  makeWorker: () => new Worker(worker, { execArgv: [] }),
}

boundarySuite(platform)
describe('rooms with a doorman', () => stateSuite(platform))
