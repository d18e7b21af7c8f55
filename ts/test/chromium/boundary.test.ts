import { boundarySuite } from '../support/boundary-suite.js'
import workerUrl from '../support/fake-worker-browser.ts?worker&url'

boundarySuite({
  worker: () => workerUrl,
  missingWorker: () => new URL('/missing.js', location.href),
  makeWorker: () => new Worker(workerUrl, { type: 'module' }),
})
