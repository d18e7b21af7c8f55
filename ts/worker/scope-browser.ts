import type { WorkerScope } from './boot.js'
import type { FromWorker, ToWorker } from './protocol.js'

/** The part of DedicatedWorkerGlobalScope that is used: its types exclude those of a page. */
interface DedicatedScope {
  addEventListener(type: 'message', listener: (event: MessageEvent<ToWorker>) => void): void
  addEventListener(type: 'error', listener: (event: ErrorEvent) => void): void
  addEventListener(
    type: 'unhandledrejection',
    listener: (event: PromiseRejectionEvent) => void,
  ): void
  postMessage(message: FromWorker): void
}

/** The global scope of a dedicated Worker. */
export function browserScope(): WorkerScope {
  const scope = globalThis as unknown as DedicatedScope
  return {
    listen: (receive) => scope.addEventListener('message', (event) => receive(event.data)),
    post: (message) => scope.postMessage(message),
    onUncaught: (report) => {
      scope.addEventListener('error', (event) => report(event.error))
      scope.addEventListener('unhandledrejection', (event) => report(event.reason))
    },
  }
}
