import { Worker } from 'node:worker_threads'

import { WORKER_OPTIONS, nodeRuntime } from './host-node.js'
import type { Runtime } from './runtime.js'

export const runtime: Runtime = nodeRuntime(
  () => new Worker(new URL('./worker-node.js', import.meta.url), WORKER_OPTIONS),
)
