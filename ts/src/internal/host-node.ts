/** The runtime of Node, but for the Worker's script. */
import { Worker, type WorkerOptions } from 'node:worker_threads'

import { RoomsError } from '../errors.js'
import type { HostListeners, WorkerHost } from './link.js'
import type { Runtime, WorkerSource } from './runtime.js'
import { store } from './store-node.js'

/** The script is self-contained: flags of this process, such as loaders, are not for it. */
export const WORKER_OPTIONS: WorkerOptions = { execArgv: [] }

const FEATURES = ['WebAssembly', 'MessageChannel', 'crypto'] as const

/** What is the same with a Worker's script of its own and with one that is part of this one. */
export function nodeRuntime(ownWorker: () => Worker, wasm?: Runtime['wasm']): Runtime {
  return {
    check(): void {
      const missing = FEATURES.find((feature) => !(feature in globalThis))
      if (missing === undefined) return
      throw new RoomsError(
        'UNSUPPORTED_RUNTIME',
        `this runtime has no ${missing}: use Node 20 or later`,
        { details: { feature: missing } },
      )
    },
    startWorker: (source) => new NodeHost(makeWorker(source, ownWorker)),
    identity: () => 'memory',
    priority: () => 3,
    store,
    wasm,
  }
}

function makeWorker(source: WorkerSource | undefined, ownWorker: () => Worker): Worker {
  if (source instanceof Worker) return source
  return typeof source === 'string' || source instanceof URL
    ? new Worker(new URL(source, import.meta.url), WORKER_OPTIONS)
    : ownWorker()
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
