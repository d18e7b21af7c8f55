import { Worker } from 'node:worker_threads'

import { RoomsError } from '../errors.js'
import type { HostListeners, WorkerHost } from './link.js'
import type { Runtime, WorkerSource } from './runtime.js'
import { store } from './store-node.js'

const FEATURES = ['WebAssembly', 'MessageChannel', 'crypto'] as const

export const runtime: Runtime = {
  check(): void {
    const missing = FEATURES.find((feature) => !(feature in globalThis))
    if (missing === undefined) return
    throw new RoomsError(
      'UNSUPPORTED_RUNTIME',
      `this runtime has no ${missing}: use Node 20 or later`,
      { details: { feature: missing } },
    )
  },
  startWorker: (source) => new NodeHost(makeWorker(source)),
  identity: () => 'memory',
  priority: () => 3,
  store,
}

function makeWorker(source: WorkerSource | undefined): Worker {
  if (source instanceof Worker) return source
  const url = new URL(
    typeof source === 'string' || source instanceof URL ? source : './worker-node.js',
    import.meta.url,
  )
  // The script is self-contained: flags of this process, such as loaders, are not for it.
  return new Worker(url, { execArgv: [] })
}

class NodeHost implements WorkerHost {
  readonly #worker: Worker
  readonly lock: undefined

  constructor(worker: Worker) {
    this.#worker = worker
  }

  post(message: unknown, transfer: Transferable[]): void {
    this.#worker.postMessage(message, transfer as never)
  }

  listen({ message, error, messageError }: HostListeners): void {
    this.#worker.on('message', message)
    this.#worker.on('error', (thrown) => error(String(thrown)))
    this.#worker.on('messageerror', messageError)
    this.#worker.on('exit', (code) => error(`it exited with code ${code}`))
  }

  async terminate(): Promise<void> {
    await this.#worker.terminate()
  }

  /** `exit` tells it. */
  watch(): void {}

  unref(): void {
    this.#worker.unref()
  }
}
