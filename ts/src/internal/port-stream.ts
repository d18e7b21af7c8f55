/**
 * PortStream: items from a data port, as an async iterator. The only queue on this side.
 *
 * 1. Opening grants the Worker a whole window of credit: items, and bytes where items have a size.
 * 2. Items wait in the buffer, never more than the window, until `next()` takes them.
 * 3. Each time half of the window has been taken, as much is granted again.
 * 4. The stream ends by `end`, by `err` (delivered after the items before it), by the link's
 *    failing it, or by the reader: `break`, `return()`, abort, dispose, or being forgotten.
 */
import type { StreamDown, StreamUp } from '../../worker/protocol.js'
import { RoomsError } from '../errors.js'

/** How much may be under way or waiting. */
export interface Window {
  /** Items. */
  readonly items: number
  /** Bytes, by {@link PortStreamOptions.sizeOf}. */
  readonly bytes: number
}

/** Room events, announcements and the like. */
export const EVENTS_WINDOW: Window = { items: 256, bytes: 1 << 20 }
/** Frames: a few groups of small ones, or 4 MiB of large ones. */
export const FRAMES_WINDOW: Window = { items: 64, bytes: 4 << 20 }

export interface PortStreamOptions<T> {
  readonly window: Window
  /** Makes the item that the reader sees; undefined for what it is not to see. */
  readonly map: (wire: never) => T | undefined
  /** Bytes of an item, as it came over the port. */
  readonly sizeOf?: (wire: never) => number
  readonly signal?: AbortSignal | undefined
  /** The room or scope whose end is the stream's; see {@link StreamState.expire}. */
  readonly owner?: number
  /** Called once, however the stream ends. */
  readonly onClose?: () => void
}

interface Waiter<T> {
  resolve(result: IteratorResult<T, undefined>): void
  reject(reason: unknown): void
  /** Keeps the reader's object alive while somebody waits. */
  readonly owner: unknown
}

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined }

/** A port as both Node and browsers have it. */
export interface DataPort {
  postMessage(message: unknown, transfer?: Transferable[]): void
  addEventListener(type: 'message', listener: (event: { data: unknown }) => void): void
  start(): void
  close(): void
}

/** The part that the port holds on to; the reader holds {@link PortStream}. */
export class StreamState<T> {
  readonly #port: DataPort
  readonly #options: PortStreamOptions<T>
  #buffer: { item: T; size: number }[] = []
  #head = 0
  #waiting: Waiter<T>[] = []
  #ended = false
  #failure: { readonly reason: unknown } | undefined
  #takenItems = 0
  #takenBytes = 0
  /** Items that may still come: a Worker that sends more is not believed. */
  #granted = 0
  /** Bytes that may still come; the last item may be larger. */
  #grantedBytes = 0
  /** Whether there is nothing new to come; see {@link expire}. */
  #expired = false
  readonly #onAbort = (): void => this.abort(this.#options.signal?.reason)

  constructor(port: DataPort, options: PortStreamOptions<T>) {
    this.#port = port
    this.#options = options
    port.addEventListener('message', (event) => this.#receive(event.data as StreamDown))
    port.start()
    this.#grant(options.window.items, options.window.bytes)
    if (options.signal?.aborted) this.#onAbort()
    else options.signal?.addEventListener('abort', this.#onAbort)
  }

  get owner(): number | undefined {
    return this.#options.owner
  }

  get buffered(): number {
    return this.#buffer.length - this.#head
  }

  next(owner: unknown): Promise<IteratorResult<T, undefined>> {
    if (this.buffered > 0) return Promise.resolve({ done: false, value: this.#take() })
    if (this.#ended) {
      const failure = this.#failure
      this.#failure = undefined
      return failure ? Promise.reject(failure.reason) : Promise.resolve(DONE)
    }
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject, owner }))
  }

  tryNext(): T | undefined {
    return this.buffered > 0 ? this.#take() : undefined
  }

  /** The reader wants no more: what waits in the buffer is dropped. */
  cancel(): void {
    if (!this.#ended) this.#post({ t: 'cancel' })
    this.#drop()
    this.#end(undefined)
    this.#failure = undefined
  }

  abort(reason: unknown): void {
    if (this.#ended) return
    this.#post({ t: 'cancel' })
    this.#drop()
    this.#end({ reason })
  }

  /** Ends the stream from outside; what is in the buffer can still be read. */
  fail(error: RoomsError): void {
    this.#end({ reason: error })
  }

  /** Ends the stream in good order; what is in the buffer can still be read. */
  finish(): void {
    this.#end(undefined)
  }

  /**
   * What it reads from is over. The Worker sends the rest and the end as long as there is credit; of a
   * reader that lets its window fill up the rest is dropped, or it would hold its stream open for ever.
   */
  expire(): void {
    this.#expired = true
    this.#starve()
  }

  #starve(): void {
    if (this.#ended || (this.#granted > 0 && this.#grantedBytes > 0)) return
    this.#post({ t: 'cancel' })
    this.#end(undefined)
  }

  #receive(message: StreamDown | null): void {
    if (this.#ended) return
    try {
      switch (message?.t) {
        case 'items':
          for (const wire of itemsOf(message.v)) this.#offer(wire)
          if (this.#expired) this.#starve()
          return
        case 'end':
          this.#end(undefined)
          return
        case 'err':
          this.#end({ reason: RoomsError.from(message.error) })
          return
      }
    } catch {
      // Said below.
    }
    this.#post({ t: 'cancel' })
    const error = new RoomsError('PROTOCOL', 'the Worker sent what is no part of this stream')
    this.#end({ reason: error })
  }

  #offer(wire: unknown): void {
    // Somebody who waited may have ended it.
    if (this.#ended) return
    if (this.#granted < 1) throw new RangeError('more than was granted')
    this.#granted -= 1
    const { map, sizeOf } = this.#options
    const size = sizeOf?.(wire as never) ?? 0
    this.#grantedBytes -= size
    const item = map(wire as never)
    if (item === undefined) {
      this.#taken(size)
      return
    }
    const waiter = this.#waiting.shift()
    if (waiter) {
      this.#taken(size)
      waiter.resolve({ done: false, value: item })
    } else {
      this.#buffer.push({ item, size })
    }
  }

  #take(): T {
    // Callers have looked: the buffer is not empty.
    const entry = this.#buffer[this.#head] as { item: T; size: number }
    this.#head += 1
    if (this.#head === this.#buffer.length) this.#drop()
    else if (this.#head >= 64) {
      this.#buffer = this.#buffer.slice(this.#head)
      this.#head = 0
    }
    this.#taken(entry.size)
    return entry.item
  }

  #taken(size: number): void {
    if (this.#ended) return
    this.#takenItems += 1
    this.#takenBytes += size
    const { items, bytes } = this.#options.window
    if (this.#takenItems * 2 < items && this.#takenBytes * 2 < bytes) return
    this.#grant(this.#takenItems, this.#takenBytes)
    this.#takenItems = 0
    this.#takenBytes = 0
  }

  #drop(): void {
    this.#buffer = []
    this.#head = 0
  }

  #end(failure: { readonly reason: unknown } | undefined): void {
    if (this.#ended) return
    this.#ended = true
    this.#options.signal?.removeEventListener('abort', this.#onAbort)
    this.#port.close()
    const waiting = this.#waiting
    this.#waiting = []
    // The first waiter hears of the failure, the others that it is over: as a generator does it.
    const first = failure && waiting.shift()
    if (first) first.reject(failure.reason)
    else this.#failure = failure
    for (const waiter of waiting) waiter.resolve(DONE)
    this.#options.onClose?.()
  }

  #grant(items: number, bytes: number): void {
    this.#granted += items
    this.#grantedBytes += bytes
    this.#post({ t: 'credit', n: items, bytes })
  }

  #post(message: StreamUp): void {
    this.#port.postMessage(message)
  }
}

function itemsOf(items: unknown[] | string): Iterable<unknown> {
  return typeof items === 'string' ? (JSON.parse(items) as unknown[]) : items
}

// A reader that was forgotten can never read again: stop the Worker from sending to it.
const forgotten = new FinalizationRegistry<StreamState<never>>((state) => state.cancel())

/** Items from the Worker; see the head of this file. */
export class PortStream<T> implements AsyncIterableIterator<T, undefined>, AsyncDisposable {
  readonly #state: StreamState<T>

  constructor(state: StreamState<T>) {
    this.#state = state
    forgotten.register(this, state as StreamState<never>, this)
  }

  /** The next item. May be called again before the last one is there: answers keep their order. */
  next(): Promise<IteratorResult<T, undefined>> {
    return this.#state.next(this)
  }

  /** The next item if one is here already. */
  tryNext(): T | undefined {
    return this.#state.tryNext()
  }

  /** Ends the stream, and drops what was not read. */
  return(): Promise<IteratorReturnResult<undefined>> {
    forgotten.unregister(this)
    this.#state.cancel()
    return Promise.resolve(DONE)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}
