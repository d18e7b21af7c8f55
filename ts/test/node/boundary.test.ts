import { boundarySuite } from '../support/boundary-suite.js'

boundarySuite({
  worker: () => new URL('../../../target/ts-test/fake-worker-node.js', import.meta.url),
  missingWorker: () => new URL('missing.js', import.meta.url),
})
