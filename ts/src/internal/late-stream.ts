import type { Subscription } from '../events.js'
import { deferred } from './link.js'

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined }

/** A subscription to what is not open yet. That it cannot be opened is its error. */
export class LateStream<T> implements Subscription<T> {
  readonly #opening: Promise<Subscription<T> | undefined>
  readonly #over = deferred<undefined>()
  #stream: Subscription<T> | undefined
  #failed = false

  /** @param signal - ends it also while it opens */
  constructor(opening: Promise<Subscription<T>>, signal: AbortSignal | undefined) {
    const aborted = deferred<never>()
    const onAbort = (): void => aborted.reject(signal?.reason)
    if (signal?.aborted) onAbort()
    else signal?.addEventListener('abort', onAbort)
    const opened = opening.then((stream) => (this.#stream = stream))
    this.#opening = Promise.race([opened, this.#over.promise, aborted.promise])
    // Also when it was given up before it opened.
    const forget = (): void => signal?.removeEventListener('abort', onAbort)
    this.#opening.then(forget, forget)
    void Promise.allSettled([this.#over.promise, opened]).then(() => this.#stream?.return())
    for (const promise of [opened, aborted.promise]) promise.catch(() => undefined)
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    if (this.#failed) return DONE
    try {
      const stream = await this.#opening
      return stream ? await stream.next() : DONE
    } catch (error) {
      this.#failed = true
      throw error
    }
  }

  tryNext(): T | undefined {
    return this.#stream?.tryNext()
  }

  return(): Promise<IteratorReturnResult<undefined>> {
    this.#over.resolve(undefined)
    this.#failed = true
    void this.#stream?.return()
    return Promise.resolve(DONE)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}
