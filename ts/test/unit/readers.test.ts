/** Readers of what is not open yet, and of two sources at once. */
import { describe, expect, it } from 'vitest'

import type { RoomEvent, StateUpdate, Subscription } from '../../src/events.js'
import { LateStream } from '../../src/internal/late-stream.js'
import { deferred } from '../../src/internal/link.js'
import { StateLog, StateReader } from '../../src/internal/state-log.js'

const caught = (error: unknown): unknown => error
const DONE = { done: true, value: undefined }

/** A source by hand. */
class Source<T> implements Subscription<T> {
  readonly #items: T[] = []
  #waiting: ((result: IteratorResult<T, undefined>) => void)[] = []
  #over = false

  push(item: T): void {
    const waiting = this.#waiting.shift()
    if (waiting) waiting({ done: false, value: item })
    else this.#items.push(item)
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    if (this.#items.length > 0) return { done: false, value: this.#items.shift() as T }
    if (this.#over) return { done: true, value: undefined }
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  tryNext(): T | undefined {
    return this.#items.shift()
  }

  get over(): boolean {
    return this.#over
  }

  async return(): Promise<IteratorReturnResult<undefined>> {
    this.#over = true
    for (const resolve of this.#waiting) resolve({ done: true, value: undefined })
    this.#waiting = []
    return { done: true, value: undefined }
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }
}

describe('a stream that opens late', () => {
  it('gives what comes once it is open, in order', async () => {
    const opening = deferred<Subscription<number>>()
    const late = new LateStream(opening.promise, undefined)
    const reads = [late.next(), late.next()]
    expect(late.tryNext()).toBeUndefined()
    const source = new Source<number>()
    source.push(1)
    source.push(2)
    source.push(3)
    opening.resolve(source)
    expect((await Promise.all(reads)).map(({ value }) => value)).toEqual([1, 2])
    expect(late.tryNext()).toBe(3)
    await late.return()
    expect(source.over).toBe(true)
    expect(await late.next()).toEqual(DONE)
  })

  it('ends when it is given up before it opens, and closes what opens later', async () => {
    const opening = deferred<Subscription<number>>()
    const late = new LateStream(opening.promise, undefined)
    const waiting = late.next()
    await late.return()
    expect(await waiting).toEqual(DONE)
    const source = new Source<number>()
    opening.resolve(source)
    await expect.poll(() => source.over).toBe(true)
  })

  it('rejects once: with its signal, or with why it did not open', async () => {
    const abort = new AbortController()
    const aborted = new LateStream(new Promise<never>(() => undefined), abort.signal)
    const waiting = aborted.next().catch(caught)
    abort.abort('enough')
    expect(await waiting).toBe('enough')
    expect(await aborted.next()).toEqual(DONE)
    const failed = new LateStream(Promise.reject(new Error('no')), undefined)
    expect(await failed.next().catch(caught)).toEqual(new Error('no'))
    expect(await failed.next()).toEqual(DONE)
  })
})

describe('a reader of events and changes', () => {
  const event = (code: string): RoomEvent => ({ type: 'error', code, message: '' })
  const update = (index: number): StateUpdate => ({
    type: 'state-update',
    change: index,
    state: index,
    index,
    author: 'aa',
  })
  const told = ({ value }: IteratorResult<RoomEvent, undefined>): unknown =>
    value && ('index' in value ? value.index : (value as { code: string }).code)

  function reading(signal?: AbortSignal): {
    log: StateLog
    source: Source<RoomEvent>
    reader: StateReader
  } {
    const log = new StateLog()
    const source = new Source<RoomEvent>()
    return { log, source, reader: new StateReader(log, Promise.resolve(source), signal) }
  }

  it('gives each once, whichever comes first, also to reads that wait together', async () => {
    const { log, source, reader } = reading()
    const reads = Array.from({ length: 6 }, () => reader.next())
    await Promise.resolve()
    log.append(update(1))
    await new Promise((resolve) => setTimeout(resolve))
    log.append(update(2))
    await new Promise((resolve) => setTimeout(resolve))
    source.push(event('a'))
    await new Promise((resolve) => setTimeout(resolve))
    log.append(update(3))
    source.push(event('b'))
    source.push(event('c'))
    const seen = (await Promise.all(reads)).map(told)
    expect(seen.filter((item) => typeof item === 'number')).toEqual([1, 2, 3])
    expect(seen.filter((item) => typeof item === 'string')).toEqual(['a', 'b', 'c'])
    expect(reader.tryNext()).toBeUndefined()
  })

  it('skips to the newest state when it is too far behind', async () => {
    const { log, reader } = reading()
    for (let i = 1; i <= 200; i += 1) log.append(update(i))
    expect((await reader.next()).value).toEqual({
      type: 'state-update',
      change: null,
      state: 200,
      index: 200,
      skipped: true,
    })
    log.append(update(201))
    expect(told(await reader.next())).toBe(201)
  })

  it('ends with the events, with return and with its signal', async () => {
    const { log, source, reader } = reading()
    const waiting = reader.next()
    await source.return()
    expect(await waiting).toEqual(DONE)
    log.append(update(1))
    expect(await reader.next()).toEqual(DONE)

    const other = reading()
    const read = other.reader.next()
    await other.reader.return()
    expect(await read).toEqual(DONE)
    expect(other.source.over).toBe(true)

    const abort = new AbortController()
    const aborted = reading(abort.signal)
    aborted.log.append(update(1))
    abort.abort('enough')
    expect(aborted.reader.tryNext()).toBeUndefined()
  })
})
