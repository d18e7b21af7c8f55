import { Worker } from 'node:worker_threads'

import { boundarySuite } from '../support/boundary-suite.js'

const worker = new URL('../../../target/ts-test/fake-worker-node.js', import.meta.url)

boundarySuite({
  worker: () => worker,
  missingWorker: () => new URL('missing.js', import.meta.url),
  makeWorker: () => new Worker(worker, { execArgv: [] }),
})
