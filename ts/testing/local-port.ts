/**
 * The Worker's boundary without a Worker: ports and a host in the same thread. What is posted is
 * cloned, as between threads, and comes in a turn of the event loop of its own, in the order in which
 * it was posted on whichever port.
 */
import { type LoadModule, type WorkerScope, serve } from '../worker/boot.js'
import type { FromWorker, ToWorker } from '../worker/protocol.js'
import type { HostListeners, WorkerHost } from '../src/internal/link.js'
import type { Tasks } from './clock.js'

type Listener = (event: { data: unknown }) => void

/** One end of a channel: what the library uses of a MessagePort. */
class LocalPort {
  readonly #tasks: Tasks
  readonly #listeners = new Set<Listener>()
  /** What came before `start`. */
  #early: unknown[] | undefined = []
  #other: LocalPort | undefined
  #closed = false

  constructor(tasks: Tasks) {
    this.#tasks = tasks
  }

  static pair(tasks: Tasks): [LocalPort, LocalPort] {
    const [one, other] = [new LocalPort(tasks), new LocalPort(tasks)]
    one.#other = other
    other.#other = one
    return [one, other]
  }

  postMessage(message: unknown, transfer: readonly unknown[] = []): void {
    const data = clone(message, transfer)
    const other = this.#other
    if (!this.#closed && other) this.#tasks.post(() => other.#receive(data))
  }

  addEventListener(_type: string, listener: Listener): void {
    this.#listeners.add(listener)
  }

  removeEventListener(_type: string, listener: Listener): void {
    this.#listeners.delete(listener)
  }

  start(): void {
    const early = this.#early ?? []
    this.#early = undefined
    for (const data of early) this.#tasks.post(() => this.#receive(data))
  }

  /** What was posted before still arrives at the other end. */
  close(): void {
    this.#closed = true
    this.#listeners.clear()
  }

  #receive(data: unknown): void {
    if (this.#early) this.#early.push(data)
    else for (const listener of this.#listeners) listener({ data })
  }
}

/** As postMessage does it; ports are handed over as they are. */
function clone(value: unknown, transfer: readonly unknown[]): unknown {
  if (typeof value !== 'object' || value === null || value instanceof LocalPort) {
    if (typeof value !== 'function' && typeof value !== 'symbol') return value
    throw new DOMException(`${typeof value} could not be cloned`, 'DataCloneError')
  }
  if (Array.isArray(value)) return value.map((item) => clone(item, transfer))
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype === Object.prototype || prototype === null) {
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key, clone(item, transfer)]),
    )
  }
  if (!(value instanceof Uint8Array)) return structuredClone(value)
  const { buffer } = value
  if (!transfer.includes(buffer)) return new Uint8Array(value)
  return structuredClone(value, { transfer: [buffer as ArrayBuffer] })
}

/** A "Worker" in this thread. */
export class LocalHost implements WorkerHost {
  readonly lock: undefined
  readonly #tasks: Tasks
  readonly #load: LoadModule
  readonly #onTerminate: () => void
  #toWorker: (message: ToWorker) => void = () => undefined
  #listeners: HostListeners | undefined
  #over = false

  /**
   * @param load - makes the core
   * @param onTerminate - the core is to end without a word
   */
  constructor(tasks: Tasks, load: LoadModule, onTerminate: () => void) {
    this.#tasks = tasks
    this.#load = load
    this.#onTerminate = onTerminate
  }

  newChannel(): MessageChannel {
    const [port1, port2] = LocalPort.pair(this.#tasks)
    return { port1, port2 } as unknown as MessageChannel
  }

  post(message: unknown, transfer: Transferable[]): void {
    const data = clone(message, transfer) as ToWorker
    this.#tasks.post(() => {
      if (!this.#over) this.#toWorker(data)
    })
  }

  listen(listeners: HostListeners): void {
    this.#listeners = listeners
    const scope: WorkerScope = {
      listen: (receive) => {
        this.#toWorker = receive
      },
      post: (message: FromWorker) => {
        const data = clone(message, [])
        this.#tasks.post(() => {
          if (!this.#over) listeners.message(data)
        })
      },
      // Errors of this thread are the application's own.
      onUncaught: () => undefined,
    }
    serve(scope, this.#load)
  }

  /** Ends it as a Worker that crashed. */
  crash(detail: string): void {
    if (!this.#over) this.#listeners?.error(detail)
  }

  terminate(): void {
    if (this.#over) return
    this.#over = true
    this.#onTerminate()
  }

  watch(): void {}

  unref(): void {}
}
