/** The runtime of browsers, but for the Worker's script. */
import { RoomsError } from '../errors.js'
import type { HostListeners, WorkerHost } from './link.js'
import type { Runtime, WorkerSource } from './runtime.js'
import { store } from './store-browser.js'

const FEATURES = ['Worker', 'WebAssembly', 'MessageChannel', 'WebSocket', 'crypto'] as const

/** What is the same with a Worker's script of its own and with one that is part of this one. */
export function browserRuntime(ownWorker: () => Worker, wasm?: Runtime['wasm']): Runtime {
  return {
    check(): void {
      const missing = FEATURES.find((feature) => !(feature in globalThis))
      if (missing === undefined) return
      throw new RoomsError(
        'UNSUPPORTED_RUNTIME',
        `this runtime has no ${missing}. iroh-rooms can be imported on a server that renders pages, but a Live needs a browser or Node 20 or later`,
        { details: { feature: missing } },
      )
    },
    startWorker: (source) => new BrowserHost(makeWorker(source, ownWorker)),
    // Locks need https or localhost.
    identity: () =>
      typeof sessionStorage !== 'undefined' && 'locks' in navigator ? 'tab' : 'memory',
    priority: () => (/Mobi|Android/i.test(navigator.userAgent) ? 0 : document.hidden ? 1 : 2),
    store,
    wasm,
  }
}

function makeWorker(source: WorkerSource | undefined, ownWorker: () => Worker): Worker {
  if (typeof source === 'object' && !(source instanceof URL)) return source as unknown as Worker
  try {
    return source === undefined ? ownWorker() : new Worker(source, { type: 'module' })
  } catch (error) {
    throw new RoomsError(
      'WORKER_START',
      `the browser refused to make the Worker: ${String(error)}. Likely causes: a Content-Security-Policy without worker-src; worker.js on another origin`,
      { cause: error },
    )
  }
}

class BrowserHost implements WorkerHost {
  readonly #worker: Worker
  // Nothing else tells a page that somebody terminated its Worker. Pages need https or localhost for
  // locks; elsewhere only `Live.close` ends what waits.
  readonly lock: string | undefined =
    'locks' in navigator ? `iroh-rooms/worker/${crypto.randomUUID()}` : undefined
  readonly #over = new AbortController()
  #gone: () => void = () => undefined

  constructor(worker: Worker) {
    this.#worker = worker
  }

  post(message: unknown, transfer: Transferable[]): void {
    this.#worker.postMessage(message, transfer)
  }

  listen({ message, error, messageError }: HostListeners): void {
    this.#worker.addEventListener('message', (event) => message(event.data))
    // A script that could not be loaded gives a plain event without a message.
    this.#worker.addEventListener('error', (event: Partial<globalThis.ErrorEvent>) =>
      error(event.message ?? ''),
    )
    this.#worker.addEventListener('messageerror', messageError)
    this.#gone = () => error('it was terminated')
  }

  watch(): void {
    if (this.lock === undefined) return
    navigator.locks
      .request(this.lock, { signal: this.#over.signal }, () => this.#gone())
      // It was terminated here.
      .catch(() => undefined)
  }

  terminate(): void {
    this.#over.abort()
    this.#worker.terminate()
  }

  unref(): void {}
}
