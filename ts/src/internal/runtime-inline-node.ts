import { Worker } from 'node:worker_threads'

import script from '#worker-text'
import { WORKER_OPTIONS, nodeRuntime } from './host-node.js'
import { embeddedCore } from './inline-core.js'
import type { Runtime } from './runtime.js'

export const runtime: Runtime = nodeRuntime(() => {
  // A script without a place finds no package by itself.
  const ws = 'WebSocket' in globalThis ? undefined : import.meta.resolve('ws')
  const url = new URL(`data:text/javascript,${encodeURIComponent(script)}`)
  return new Worker(url, { ...WORKER_OPTIONS, workerData: { ws } })
}, embeddedCore)
