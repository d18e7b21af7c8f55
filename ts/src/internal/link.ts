/**
 * Link: the caller's end of the Worker boundary.
 *
 * Start, in this order:
 * 1. the host is made and listened to (message, error, messageerror, exit) before anything is posted;
 * 2. `boot` is posted with one end of the control port;
 * 3. the Worker answers `booting` at once, and `ready` or `failed` when the endpoint stands;
 *    a time limit and the caller's signal run beside it.
 *
 * After that every call settles: by its result, by its signal, or, when the Worker ends in any way,
 * by `WORKER_CRASHED` or `CLOSED`. Public classes talk to a Link and never to Comlink.
 */
import { type Remote, transfer as withTransfer, wrap } from 'comlink'

import type {
  Args,
  AskKind,
  AskMessage,
  BootMessage,
  Control,
  FromWorker,
  Handle,
  LifecycleMessage,
  Method,
  Result,
  StreamArgs,
  StreamMethod,
  Value,
} from '../../worker/protocol.js'
import { RoomsError } from '../errors.js'
import { type LogEntry, type LogLevel, PROTOCOL } from '../wire.js'
import { PortStream, type PortStreamOptions, StreamState } from './port-stream.js'

/** A Worker as browsers and Node have it, made alike by the runtime files. */
export interface WorkerHost {
  post(message: unknown, transfer: Transferable[]): void
  /** At most one listener each. `error` also means: the script could not be loaded. */
  listen(listeners: HostListeners): void
  terminate(): void | Promise<void>
  /** A Web Lock that the Worker holds as long as it lives, where there are any. */
  readonly lock: string | undefined
  /** From now on the Worker holds the lock: the end of it is the end of the Worker. */
  watch(): void
  /** Node: do not keep the process alive. */
  unref(): void
  /** Makes channels, where a MessageChannel is not what leads to the Worker. */
  newChannel?(): MessageChannel
}

export interface HostListeners {
  readonly message: (data: unknown) => void
  /** The Worker threw, could not be loaded, or is gone. `detail` is empty when nothing is known. */
  readonly error: (detail: string) => void
  readonly messageError: () => void
}

/** Answers one batch of questions of a kind; the signal fires when the core no longer waits. */
export type AskHandler = (
  kind: AskKind,
  items: unknown[],
  options: { signal: AbortSignal },
) => Promise<unknown[]>

/** How the link ended. */
export interface LinkEnd {
  readonly reason: 'closed' | 'crashed'
  readonly error?: RoomsError
}

export interface LinkOptions {
  readonly host: WorkerHost
  readonly boot: Pick<BootMessage, 'wasm' | 'options'>
  /** Hears what is logged from a level on, from the start; must not throw. */
  readonly log?: { readonly level: LogLevel; readonly hear: (entry: LogEntry) => void } | undefined
  readonly signal?: AbortSignal | undefined
  /** Limit for the whole start; default {@link START_TIMEOUT_MS}. */
  readonly timeoutMs?: number
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined
  readonly transfer?: Transferable[]
}

type Ready = Extract<FromWorker, { t: 'ready' }>

/** Covers loading 1 MiB of WebAssembly over a slow line and looking for a relay (10 s). */
export const START_TIMEOUT_MS = 45_000
/** What `close()` gives the Worker beyond the grace time it was told. */
const CLOSE_MARGIN_MS = 1_000

export class Link {
  readonly #host: WorkerHost
  readonly #port: MessagePort
  readonly #control: Remote<Control>
  readonly #pending = new Map<number, (error: RoomsError) => void>()
  readonly #streams = new Set<StreamState<never>>()
  /** This side's end of every open data port, and who is told when the link ends first. */
  readonly #ports = new Map<MessagePort, (error: RoomsError) => void>()
  readonly #answers = new Map<Handle, AskHandler>()
  readonly #ended = deferred<LinkEnd>()
  /** Set once nothing new may be asked. */
  #refusal: RoomsError | undefined
  #closing: Promise<void> | undefined
  #finished = false
  #op = 0
  #handle: Handle = 0
  #unref = false
  #onLog: ((entry: LogEntry) => void) | undefined
  #onStart: ((message: FromWorker) => void) | undefined
  #onStartFailure: ((error: RoomsError) => void) | undefined

  /** What the Worker said when it was ready. */
  readonly ready: Ready

  private constructor(host: WorkerHost, port: MessagePort) {
    this.#host = host
    this.#port = port
    this.#control = wrap<Control>(port)
    this.ready = undefined as never // set by start() before anybody sees the link
  }

  /** Starts a Worker; rejects with `WORKER_START`, the Worker's own error, or the signal's reason. */
  static async start(options: LinkOptions): Promise<Link> {
    const { host, boot, log, signal, timeoutMs = START_TIMEOUT_MS } = options
    if (signal?.aborted) {
      await host.terminate()
      throw signal.reason
    }
    const { port1, port2 } = channelTo(host)
    const link = new Link(host, port1)
    link.#onLog = log?.hear
    host.listen({
      message: (data) => link.#receive(data as FromWorker),
      error: (detail) => link.#broken(detail),
      messageError: () => link.#broken('a message could not be read'),
    })
    const started = deferred<Ready>()
    let booting = false
    link.#onStart = (message) => {
      if (message.t === 'booting') booting = true
      else if (message.t === 'ready') started.resolve(message)
      else if (message.t === 'failed') started.reject(RoomsError.from(message.error))
    }
    link.#onStartFailure = (error) => started.reject(error)
    const timer = setTimeout(() => started.reject(startTimeout(booting, timeoutMs)), timeoutMs)
    const onAbort = (): void => started.reject(signal?.reason)
    signal?.addEventListener('abort', onAbort)
    try {
      const { lock } = host
      const message: BootMessage = {
        t: 'boot',
        protocol: PROTOCOL,
        port: port2,
        lock,
        log: log?.level,
        ...boot,
      }
      host.post(message, [port2])
      const ready = await started.promise
      if (ready.protocol !== PROTOCOL) {
        throw new RoomsError(
          'WORKER_START',
          `the Worker's script speaks protocol ${ready.protocol}, this page's ${PROTOCOL}: they are of different versions of iroh-rooms; serve both from one build and clear caches`,
        )
      }
      ;(link as { ready: Ready }).ready = ready
      host.watch()
      return link
    } catch (error) {
      await link.#finish({ reason: 'closed' }, closedError())
      throw error
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
      link.#onStart = undefined
      link.#onStartFailure = undefined
    }
  }

  /** Settles when the link has ended; never rejects. */
  get ended(): Promise<LinkEnd> {
    return this.#ended.promise
  }

  /** Whether nothing new may be asked: {@link ended} has settled or soon will. */
  get ending(): boolean {
    return this.#refusal !== undefined
  }

  /** Open data ports and calls under way on this side. */
  get open(): { readonly ports: number; readonly calls: number } {
    return { ports: this.#ports.size, calls: this.#pending.size }
  }

  /** A new handle for an object in the Worker. */
  newHandle(): Handle {
    this.#handle += 1
    return this.#handle
  }

  /** Asks the Worker. Rejects with a `RoomsError`, or with the signal's reason. */
  call<M extends Method>(method: M, args: Args<M>, options: CallOptions = {}): Promise<Value<M>> {
    if (this.#refusal) return Promise.reject(this.#refusal)
    return this.#invoke(method, args, options)
  }

  /** Like {@link call} where nobody waits: failures are of no interest. */
  post<M extends Method>(method: M, args: Args<M>, transfer: Transferable[] = []): void {
    this.call(method, args, { transfer }).catch(() => undefined)
  }

  /** Opens a stream, of the room or scope that is its first argument. Failing to open it is its error. */
  stream<M extends StreamMethod, T>(
    method: M,
    args: StreamArgs<M>,
    options: PortStreamOptions<T>,
  ): PortStream<T> {
    const [owner] = args as readonly unknown[]
    const { stream, port, fail } = this.newStream(
      typeof owner === 'number' ? { ...options, owner } : options,
    )
    this.call(method, [...args, port] as never, { transfer: [port] }).catch(fail)
    return stream
  }

  /** A stream whose far port the caller hands over by a call of its own. */
  newStream<T>(options: PortStreamOptions<T>): {
    stream: PortStream<T>
    port: MessagePort
    fail: (error: RoomsError) => void
  } {
    const { port1, port2 } = this.newChannel(() => undefined)
    const state: StreamState<T> = new StreamState<T>(port1, {
      ...options,
      onClose: () => {
        this.#streams.delete(state as StreamState<never>)
        this.#ports.delete(port1)
        options.onClose?.()
      },
    })
    this.#streams.add(state as StreamState<never>)
    return {
      stream: new PortStream(state),
      port: port2,
      fail: (error) => state.fail(error),
    }
  }

  /** A room is over: its streams end, also those that nobody reads. */
  expire(room: Handle): void {
    for (const state of this.#streams) if (state.owner === room) state.expire()
  }

  /** A channel to the Worker; `port1` is closed with the link, after `onEnd` was told. */
  newChannel(onEnd: (error: RoomsError) => void): MessageChannel {
    const channel = channelTo(this.#host)
    this.#ports.set(channel.port1, onEnd)
    // Listening makes Node count the port again; whoever asked for it listens at once.
    if (this.#unref) queueMicrotask(() => unrefPort(channel.port1))
    return channel
  }

  /** Closes a port of {@link newChannel}. */
  closePort(port: MessagePort): void {
    this.#ports.delete(port)
    port.close()
  }

  /** Sets who answers the core's questions about a room; undefined for nobody any more. */
  answer(room: Handle, handler: AskHandler | undefined): void {
    if (handler) this.#answers.set(room, handler)
    else this.#answers.delete(room)
  }

  /** Whether anybody answers: a room with a doorman is open. */
  get answering(): boolean {
    return this.#answers.size > 0
  }

  /** Tells the Worker about the page; takes effect at once, without an answer. */
  lifecycle(state: LifecycleMessage['state']): void {
    if (!this.#refusal) this.#host.post({ t: 'lifecycle', state } satisfies LifecycleMessage, [])
  }

  /**
   * Ends it: refuses new calls, lets the Worker shut down within `graceMs`, fails what is left with
   * `CLOSED`, terminates. Idempotent, never rejects.
   */
  close(graceMs: number): Promise<void> {
    this.#closing ??= this.#close(graceMs)
    return this.#closing
  }

  /** Node: the process may exit while the link stands. */
  unref(): void {
    this.#unref = true
    this.#host.unref()
    unrefPort(this.#port)
    for (const port of this.#ports.keys()) unrefPort(port)
  }

  async #close(graceMs: number): Promise<void> {
    if (this.#refusal) return
    this.#refusal = closedError()
    let timer: ReturnType<typeof setTimeout> | undefined
    const limit = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, graceMs + CLOSE_MARGIN_MS)
    })
    const shutdown = this.#invoke('shutdown', [graceMs], {}).catch(() => undefined)
    await Promise.race([shutdown, limit, this.ended])
    clearTimeout(timer)
    await this.#finish({ reason: 'closed' }, closedError())
  }

  #invoke<M extends Method>(
    method: M,
    args: Args<M>,
    { signal, transfer = [] }: CallOptions,
  ): Promise<Value<M>> {
    if (signal?.aborted) return Promise.reject(signal.reason)
    this.#op += 1
    const op = this.#op
    return new Promise<Value<M>>((resolve, reject) => {
      const settled = (): boolean => {
        signal?.removeEventListener('abort', onAbort)
        return !this.#pending.delete(op)
      }
      const onAbort = (): void => {
        if (settled()) return
        // Nobody waits for this answer: it may never come.
        void this.#control.cancel(op)
        reject(signal?.reason)
      }
      signal?.addEventListener('abort', onAbort)
      this.#pending.set(op, (error) => {
        settled()
        reject(error)
      })
      this.#control.invoke(op, method, withTransfer(args, transfer)).then(
        (result: Result<unknown> | null) => {
          if (settled()) return
          if (result?.ok) resolve(result.value as Value<M>)
          else reject(RoomsError.from(result?.error))
        },
        (error: unknown) => {
          if (settled()) return
          reject(
            new RoomsError(
              'INVALID_ARGUMENT',
              `${method}: an argument cannot be sent to the Worker: ${String(error)}`,
              { cause: error },
            ),
          )
        },
      )
    })
  }

  #receive(message: FromWorker | null): void {
    switch (message?.t) {
      case 'fatal':
        this.#crashed(message.error)
        return
      case 'ask':
        void this.#ask(message)
        return
      case 'log':
        this.#onLog?.(message.entry)
        return
      case 'booting':
      case 'ready':
      case 'failed':
        this.#onStart?.(message)
    }
  }

  async #ask({ id, room, kind, items, limitMs }: AskMessage): Promise<void> {
    let result: Result<unknown[]>
    try {
      const handler = this.#answers.get(room)
      if (!handler) throw new RoomsError('CLOSED', `nobody answers questions about room ${room}`)
      const value = await handler(kind, items, { signal: AbortSignal.timeout(limitMs) })
      result = { ok: true, value }
    } catch (error) {
      result = { ok: false, error: RoomsError.toData(error) }
    }
    if (this.#refusal) return
    try {
      this.#host.post({ t: 'answer', id, result }, [])
    } catch (error) {
      // An answer that cannot be sent is a failed one.
      const failed = { code: 'INVALID_ARGUMENT', message: String(error) }
      this.#host.post({ t: 'answer', id, result: { ok: false, error: failed } }, [])
    }
  }

  #broken(detail: string): void {
    if (this.#finished) return
    if (this.#onStartFailure) {
      this.#onStartFailure(
        new RoomsError(
          'WORKER_START',
          `the Worker's script could not be loaded or failed at once${detail && `: ${detail}`}. ${LIKELY_CAUSES}`,
        ),
      )
      return
    }
    this.#crashed({ code: 'WORKER_CRASHED', message: detail || 'no reason was given' })
  }

  #crashed(wire: unknown): void {
    const data = RoomsError.toData(wire)
    const error = new RoomsError(
      'WORKER_CRASHED',
      `the Worker of this Live crashed: ${data.message}. Its keys and sessions are gone: spawn a new Live`,
      { cause: data.cause ?? data.message },
    )
    if (this.#onStartFailure) this.#onStartFailure(error)
    else void this.#finish({ reason: 'crashed', error }, error)
  }

  async #finish(end: LinkEnd, error: RoomsError): Promise<void> {
    if (this.#finished) return
    this.#finished = true
    this.#refusal = error
    // Each of these takes itself out of its collection, which iteration allows.
    for (const reject of this.#pending.values()) reject(error)
    for (const state of this.#streams) {
      if (end.reason === 'crashed') state.fail(error)
      else state.finish()
    }
    for (const [port, onEnd] of this.#ports) {
      onEnd(error)
      port.close()
    }
    this.#ports.clear()
    this.#port.close()
    const terminated = this.#host.terminate()
    this.#ended.resolve(end)
    await terminated
  }
}

const LIKELY_CAUSES =
  'Likely causes: worker.js is not served beside index.js (404, or a page of HTML instead); a Content-Security-Policy without worker-src and wasm-unsafe-eval; with Vite 5 to 7, optimizeDeps.exclude lacks "iroh-rooms"'

function startTimeout(booting: boolean, timeoutMs: number): RoomsError {
  const seconds = `${timeoutMs / 1000} s`
  return booting
    ? new RoomsError(
        'WORKER_START',
        `the Worker runs, but was not ready within ${seconds}. Likely causes: core_bg.wasm is not served beside worker.js, or very slowly; a Content-Security-Policy without wasm-unsafe-eval`,
      )
    : new RoomsError(
        'WORKER_START',
        `the Worker's script did not answer within ${seconds}. ${LIKELY_CAUSES}`,
      )
}

/** The error for calls on something that is closed. */
export function closedError(what = 'this Live'): RoomsError {
  return new RoomsError('CLOSED', `${what} is closed`)
}

interface Deferred<T> {
  readonly promise: Promise<T>
  readonly resolve: (value: T) => void
  readonly reject: (reason: unknown) => void
}

/** `Promise.withResolvers`, which Node 20 lacks. */
export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void
  let reject!: (reason: unknown) => void
  const promise = new Promise<T>((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}

function channelTo(host: WorkerHost): MessageChannel {
  return host.newChannel?.() ?? new MessageChannel()
}

function unrefPort(port: MessagePort): void {
  ;(port as MessagePort & { unref?: () => void }).unref?.()
}
