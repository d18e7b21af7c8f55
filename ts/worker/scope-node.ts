import { parentPort } from 'node:worker_threads'

import type { WorkerScope } from './boot.js'

/** The parent port of a worker_threads Worker. */
export function nodeScope(): WorkerScope {
  const port = parentPort
  if (!port) throw new Error('this file is the script of a Worker')
  return {
    listen: (receive) => port.on('message', receive),
    post: (message) => port.postMessage(message),
    onUncaught: (report) => {
      process.on('uncaughtExceptionMonitor', report)
      process.on('unhandledRejection', (reason) => {
        // As in browsers, where a stray rejection ends nothing.
        console.error('iroh-rooms: unhandled rejection in the Worker', reason)
        report(reason)
      })
    },
  }
}
