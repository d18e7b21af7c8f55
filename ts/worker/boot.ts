/**
 * The Worker's life, the same in browsers and in Node:
 * 1. the entry's first statement calls {@link serve}, which listens; nothing is awaited before;
 * 2. `boot` brings the control port, the options and where the WebAssembly is; `booting` is said;
 * 3. the module is loaded, the endpoint started, Comlink exposed on the control port;
 * 4. `ready`, or `failed` with the reason;
 * 5. a panic or trap says `fatal`, and from then on every call is refused: the caller's side
 *    terminates the Worker.
 */
import { expose } from 'comlink'

import { type ErrorData, RoomsError } from '../src/errors.js'
import { PROTOCOL } from '../src/wire.js'
import { Api } from './api.js'
import { Asks } from './asks.js'
import { LogLimit } from './log-limit.js'
import type { CoreHandle, CoreModule } from './core-module.js'
import type {
  BootMessage,
  Control,
  FromWorker,
  LifecycleMessage,
  Result,
  ToWorker,
} from './protocol.js'

/** The Worker's own channel and the uncaught errors of its thread. */
export interface WorkerScope {
  listen(receive: (message: ToWorker) => void): void
  post(message: FromWorker): void
  /** Errors that nobody caught: a panic in a task of the core's own arrives this way. */
  onUncaught(report: (thrown: unknown) => void): void
}

/** Loads and instantiates the module; `wasm` is where it is, or what it is. */
export type LoadModule = (wasm: BootMessage['wasm']) => Promise<CoreModule>

/** Serves one `Live`. Returned for tests: the questions that the core would ask. */
export function serve(scope: WorkerScope, load: LoadModule): Asks {
  const worker = new WorkerLife(scope, load)
  scope.listen((message) => worker.receive(message))
  scope.onUncaught((thrown) => worker.uncaught(thrown))
  return worker.asks
}

class WorkerLife {
  readonly #scope: WorkerScope
  readonly #load: LoadModule
  readonly asks: Asks
  #booted = false
  #core: CoreHandle | undefined
  #api: Api | undefined
  #panic: string | undefined
  #poisoned: ErrorData | undefined

  constructor(scope: WorkerScope, load: LoadModule) {
    this.#scope = scope
    this.#load = load
    this.asks = new Asks((message) => scope.post(message))
  }

  receive(message: ToWorker | null): void {
    switch (message?.t) {
      case 'boot':
        // One Worker serves one Live.
        if (this.#booted) return
        this.#booted = true
        void this.#boot(message)
        return
      case 'lifecycle':
        this.#lifecycle(message.state)
        return
      case 'answer':
        this.asks.answer(message)
        return
    }
  }

  /**
   * A trap that nobody caught: said here in the panic's own words. Other uncaught errors reach the
   * caller's side as the platform's error event; stray rejections break nothing.
   */
  uncaught(thrown: unknown): void {
    if (thrown instanceof WebAssembly.RuntimeError || this.#panic !== undefined) {
      this.#fatal(RoomsError.toData(thrown))
    }
  }

  async #boot(message: BootMessage): Promise<void> {
    this.#scope.post({ t: 'booting' })
    try {
      if (message.protocol !== PROTOCOL) {
        throw new RoomsError(
          'WORKER_START',
          `the page speaks protocol ${message.protocol}, the Worker's script ${PROTOCOL}: they are of different versions of iroh-rooms; serve both from one build and clear caches`,
        )
      }
      if (message.lock !== undefined) await hold(message.lock)
      const module = await this.#loadModule(message.wasm)
      module.onPanic((text) => {
        this.#panic = text
      })
      if (message.log !== undefined) {
        const limit = new LogLimit((entry) => this.#scope.post({ t: 'log', entry }))
        module.onLog(message.log, (level, target, text) =>
          limit.pass({ level, target, message: text }),
        )
      }
      const core = await module.Core.spawn(message.options)
      const api = new Api(module, core, this.asks, (error) => this.#fatal(error))
      this.#core = core
      this.#api = api
      expose(this.#control(api), message.port)
      this.#scope.post({
        t: 'ready',
        protocol: PROTOCOL,
        coreVersion: module.version(),
        endpointId: core.endpointId(),
        status: core.status(),
      })
    } catch (thrown) {
      const error = RoomsError.toData(thrown)
      this.#scope.post({
        t: 'failed',
        error: this.#panic === undefined ? error : { ...error, message: this.#panic },
      })
    }
  }

  async #loadModule(wasm: BootMessage['wasm']): Promise<CoreModule> {
    try {
      return await this.#load(wasm)
    } catch (thrown) {
      if (RoomsError.is(thrown)) throw thrown
      throw new RoomsError(
        'WORKER_START',
        `core_bg.wasm could not be loaded: ${String(thrown)}. Likely causes: it is not served beside worker.js (404, or a page of HTML instead); a Content-Security-Policy without wasm-unsafe-eval; files of two versions`,
        { cause: thrown },
      )
    }
  }

  #control(api: Api): Control {
    const control: Control = {
      invoke: async (op, method, args) => {
        if (this.#poisoned) return { ok: false, error: this.#poisoned }
        const result: Result<unknown> = await api.invoke(op, method, args)
        return result as never
      },
      cancel: (op) => api.cancel(op),
    }
    return control
  }

  #lifecycle(state: LifecycleMessage['state']): void {
    if (this.#poisoned) return
    try {
      if (state === 'leaving') this.#core?.leaveNow()
      else this.#core?.visibility(state)
      if (state === 'hidden') this.#api?.handOver()
    } catch (thrown) {
      this.#api?.toData(thrown)
    }
  }

  #fatal(error: ErrorData): void {
    if (this.#poisoned) return
    const message = this.#panic ?? error.message
    this.#poisoned = { ...error, code: 'WORKER_CRASHED', message }
    this.#scope.post({ t: 'fatal', error: this.#poisoned })
  }
}

/** Takes a lock and never gives it back. */
async function hold(lock: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const forever = new Promise<never>(() => undefined)
    navigator.locks
      .request(lock, () => {
        resolve()
        return forever
      })
      .catch(reject)
  })
}
