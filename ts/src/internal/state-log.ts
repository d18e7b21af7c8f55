/**
 * The changes of a room's state, and readers of the room's events that each have a place among them.
 * Like the chat's log, not a queue: nothing is stored for a reader.
 */
import type { RoomEvent, StateUpdate, Subscription } from '../events.js'
import { deferred } from './link.js'

/**
 * Changes that are kept for readers. One that is further behind gets the newest state, with
 * `skipped`. Each holds a state, which with a reducer shares nothing with the one before.
 */
const LOG_UPDATES = 64

export class StateLog {
  #updates: StateUpdate[] = []
  /** Number of changes that are no longer kept. */
  #dropped = 0
  #news = deferred<void>()
  ended = false

  append(update: StateUpdate): void {
    if (this.ended) return
    this.#updates.push(update)
    if (this.#updates.length > LOG_UPDATES) {
      this.#updates.shift()
      this.#dropped += 1
    }
    this.#tell()
  }

  /** No more changes come. */
  end(): void {
    this.ended = true
    this.#tell()
  }

  get length(): number {
    return this.#dropped + this.#updates.length
  }

  /** The change at a place and the place after it; undefined at the end. */
  at(place: number): { readonly update: StateUpdate; readonly next: number } | undefined {
    const newest = this.#updates.at(-1)
    if (!newest) return undefined
    if (place < this.#dropped) {
      const { type, state, index } = newest
      const update: StateUpdate = { type, change: null, state, index, skipped: true }
      return { update: Object.freeze(update), next: this.length }
    }
    const update = this.#updates[place - this.#dropped]
    return update && { update, next: place + 1 }
  }

  /** Resolves when something comes, or nothing more. */
  get news(): Promise<void> {
    return this.#news.promise
  }

  #tell(): void {
    this.#news.resolve()
    this.#news = deferred<void>()
  }
}

/** The events of a room with its changes among them. */
export class StateReader<S = unknown> implements Subscription<RoomEvent<S>> {
  readonly #log: StateLog
  readonly #opening: Promise<Subscription<RoomEvent>>
  readonly #over = deferred<void>()
  /** The stream hears it, and rejects with its reason; here it only ends the changes. */
  readonly #signal: AbortSignal | undefined
  #stream: Subscription<RoomEvent> | undefined
  #place: number
  #done = false
  /** An event that was asked for and not taken yet. */
  #asked: Promise<void> | undefined
  #here: IteratorResult<RoomEvent, undefined> | undefined
  /** Reads one after the other, so that concurrent `next()` calls keep their order. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(
    log: StateLog,
    opening: Promise<Subscription<RoomEvent>>,
    signal: AbortSignal | undefined,
  ) {
    this.#log = log
    this.#place = log.length
    this.#opening = opening.then((stream) => (this.#stream = stream))
    this.#opening.catch(() => undefined)
    this.#signal = signal
  }

  next(): Promise<IteratorResult<RoomEvent<S>, undefined>> {
    const turn = this.#turn.then(() => this.#read())
    this.#turn = turn.catch(() => undefined)
    return turn as Promise<IteratorResult<RoomEvent<S>, undefined>>
  }

  tryNext(): RoomEvent<S> | undefined {
    if (this.#done) return undefined
    const found = this.#update() ?? this.#arrived() ?? this.#stream?.tryNext()
    return found as RoomEvent<S> | undefined
  }

  return(): Promise<IteratorReturnResult<undefined>> {
    this.#done = true
    this.#over.resolve()
    void this.#stream?.return()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  async #read(): Promise<IteratorResult<RoomEvent, undefined>> {
    try {
      while (!this.#done) {
        const { news } = this.#log
        const update = this.#update()
        if (update) return { done: false, value: update }
        if (this.#here?.done) break
        const event = this.#arrived()
        if (event) return { done: false, value: event }
        this.#asked ??= this.#ask()
        // News may win the race for good: then nobody hears how it failed.
        this.#asked.catch(() => undefined)
        await Promise.race([this.#asked, news, this.#over.promise])
      }
    } catch (error) {
      this.#done = true
      throw error
    }
    this.#done = true
    void this.#stream?.return()
    return { done: true, value: undefined }
  }

  async #ask(): Promise<void> {
    const stream = await this.#opening
    this.#here = await stream.next()
  }

  #update(): StateUpdate | undefined {
    const found = this.#signal?.aborted ? undefined : this.#log.at(this.#place)
    if (found) this.#place = found.next
    return found?.update
  }

  /** The event that came for an earlier `next()`. */
  #arrived(): RoomEvent | undefined {
    if (!this.#here || this.#here.done) return undefined
    const { value } = this.#here
    this.#here = undefined
    this.#asked = undefined
    return value
  }
}
