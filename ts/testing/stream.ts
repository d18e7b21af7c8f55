/** Streams of a core in TypeScript: items that wait until they are asked for. */
import type { Batch, StreamHandle } from '../worker/core-module.js'
import { RoomsError, type RoomsErrorCode } from '../src/errors.js'

/** Beyond this the oldest are dropped, as in the core. */
export const EVENTS_CAP = 256

/** Throws as the core does. */
export function fail(code: RoomsErrorCode, message: string, details?: unknown): never {
  throw RoomsError.from({ code, message, details })
}

export interface StreamOptions<T> {
  /** Called when the reader has gone. */
  readonly onCancel?: () => void
  /** Called for each item that is given out. */
  readonly onTake?: (item: T) => void
  /** Called for each item that was dropped, with the one that is the oldest now. */
  readonly onDrop?: (item: T, next: T) => void
  /** Items that wait; default {@link EVENTS_CAP}. */
  readonly cap?: number
}

/** What waits for one reader. */
export class Stream<T> implements StreamHandle {
  protected items: T[] = []
  readonly #options: StreamOptions<T>
  #end: { readonly error: unknown } | undefined
  #wake: (() => void) | undefined
  #freed = false

  constructor(options: StreamOptions<T> = {}) {
    this.#options = options
  }

  push(item: T): void {
    if (this.#end) return
    this.items.push(item)
    if (this.items.length > (this.#options.cap ?? EVENTS_CAP)) {
      const dropped = this.items.shift() as T
      this.#options.onDrop?.(dropped, this.items[0] as T)
    }
    this.#wake?.()
  }

  /** No more items; those that wait are still given out, and then the error. */
  end(error?: unknown): void {
    this.#end ??= { error }
    this.#wake?.()
  }

  async nextBatch(maxItems: number, maxBytes: number): Promise<Batch> {
    this.#check()
    if (maxItems < 1 || maxBytes < 1) throw new Error('asked without credit')
    while (!this.ready && !this.#end) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    const items: unknown[] = []
    let bytes = 0
    while (this.items.length > 0 && items.length < maxItems) {
      const item = this.items[0] as T
      const size = (item as { data?: Uint8Array }).data?.byteLength ?? 0
      if (items.length > 0 && bytes + size > maxBytes) break
      bytes += size
      this.items.shift()
      items.push(item)
      this.#options.onTake?.(item)
    }
    if (items.length === 0 && this.#end?.error !== undefined) throw this.#end.error
    const done = this.#end !== undefined && this.items.length === 0 && this.#end.error === undefined
    return { items, count: items.length, done }
  }

  cancel(): void {
    this.#check()
    this.items = []
    this.end()
    this.#options.onCancel?.()
  }

  free(): void {
    this.#check()
    this.#freed = true
  }

  /** Whether there is something to give out. */
  protected get ready(): boolean {
    return this.items.length > 0
  }

  protected wake(): void {
    this.#wake?.()
  }

  #check(): void {
    if (this.#freed) throw new Error('nothing may be asked of what was freed')
  }
}

/** Waits of which some are ended by a change: each looks again for itself. */
export class Changes {
  #waiting: (() => void)[] = []

  next(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}
