import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'

import { RoomsError } from '../../src/errors.js'
import {
  type DataPort,
  PortStream,
  StreamState,
  type Window,
} from '../../src/internal/port-stream.js'
import type { StreamUp } from '../../worker/protocol.js'

/** A Worker's end that sends numbers while it has credit, and fails the test where it must not. */
class Producer implements DataPort {
  items = 0
  bytes = 0
  sent = 0
  cancelled = false
  closed = false
  #listener: ((event: { data: unknown }) => void) | undefined

  postMessage(message: unknown): void {
    expect(this.closed).toBe(false)
    const up = message as StreamUp
    if (up.t === 'cancel') this.cancelled = true
    else {
      this.items += up.n
      this.bytes += up.bytes
    }
  }

  addEventListener(_type: 'message', listener: (event: { data: unknown }) => void): void {
    this.#listener = listener
  }

  start(): void {}

  close(): void {
    this.closed = true
  }

  get mayProduce(): boolean {
    return this.items > 0 && this.bytes > 0
  }

  /** Sends one batch of at most `count` numbers, as far as there is credit. */
  produce(count: number, size: number): void {
    const v: { n: number; size: number }[] = []
    while (v.length < count && this.mayProduce) {
      v.push({ n: this.sent, size })
      this.sent += 1
      this.items -= 1
      this.bytes -= size
    }
    if (v.length > 0) this.deliver({ t: 'items', v })
  }

  deliver(data: unknown): void {
    this.#listener?.({ data })
  }
}

function stream(window: Window, signal?: AbortSignal) {
  const producer = new Producer()
  let closes = 0
  const state = new StreamState<number>(producer, {
    window,
    map: (wire: { n: number }) => wire.n,
    sizeOf: (wire: { size: number }) => wire.size,
    signal,
    onClose: () => {
      closes += 1
    },
  })
  return { producer, state, reader: new PortStream(state), closes: () => closes }
}

const window = fc.record({
  items: fc.integer({ min: 1, max: 40 }),
  bytes: fc.integer({ min: 1, max: 500 }),
})
const step = fc.oneof(
  fc.record({
    do: fc.constant('produce' as const),
    count: fc.integer({ min: 1, max: 50 }),
    size: fc.integer({ min: 0, max: 300 }),
  }),
  fc.record({ do: fc.constant('read' as const), count: fc.integer({ min: 1, max: 10 }) }),
  fc.record({ do: fc.constant('try' as const) }),
)

describe('PortStream', () => {
  it('delivers each item once, in order, within its window, and always comes to an end', async () => {
    await fc.assert(
      fc.asyncProperty(
        window,
        fc.array(step, { maxLength: 60 }),
        fc.boolean(),
        async (limits, steps, fails) => {
          const { producer, state, reader, closes } = stream(limits)
          const got: number[] = []
          const reads: Promise<unknown>[] = []
          const read = (): void => {
            reads.push(reader.next().then(({ done, value }) => done || got.push(value)))
          }
          for (const action of steps) {
            if (action.do === 'produce') producer.produce(action.count, action.size)
            else if (action.do === 'read') for (let i = 0; i < action.count; i += 1) read()
            else {
              await Promise.resolve()
              const item = reader.tryNext()
              if (item !== undefined) got.push(item)
            }
            expect(state.buffered).toBeLessThanOrEqual(limits.items)
          }
          // Whatever happened: a reader that goes on reading gets the producer going again.
          for (let i = 0; i < limits.items && !producer.mayProduce; i += 1) read()
          await Promise.resolve()
          expect(producer.mayProduce).toBe(true)

          producer.deliver(
            fails ? { t: 'err', error: { code: 'PROTOCOL', message: 'x' } } : { t: 'end' },
          )
          let failure: unknown
          await Promise.all(reads).catch((error: unknown) => {
            failure = error
          })
          await Promise.allSettled(reads)
          for (;;) {
            const result = await reader.next().catch((error: unknown) => {
              failure = error
              return undefined
            })
            if (!result) continue
            if (result.done) break
            got.push(result.value)
          }
          expect(got).toEqual(Array.from({ length: producer.sent }, (_, i) => i))
          expect(RoomsError.is(failure, 'PROTOCOL')).toBe(fails)
          expect(producer.closed).toBe(true)
          expect(closes()).toBe(1)
        },
      ),
      { numRuns: 300 },
    )
  })

  it('is cancelled by break, return, dispose and abort, and says so to the producer', async () => {
    for (const how of ['break', 'return', 'dispose', 'abort'] as const) {
      const abort = new AbortController()
      const { producer, reader, closes } = stream({ items: 8, bytes: 8 }, abort.signal)
      producer.produce(3, 0)
      if (how === 'break') for await (const _ of reader) break
      if (how === 'return') await reader.return()
      if (how === 'dispose') await reader[Symbol.asyncDispose]()
      if (how === 'abort') {
        abort.abort('stop')
        await expect(reader.next()).rejects.toBe('stop')
      }
      expect(await reader.next()).toEqual({ done: true, value: undefined })
      expect([producer.cancelled, producer.closed, closes()]).toEqual([true, true, 1])
    }
  })

  it('settles all who wait when it ends: the first with the error', async () => {
    const { producer, reader } = stream({ items: 8, bytes: 8 })
    const waiting = [reader.next(), reader.next(), reader.next()]
    producer.produce(1, 0)
    producer.deliver({ t: 'err', error: { code: 'PROTOCOL', message: 'x' } })
    const [first, second, third] = await Promise.allSettled(waiting)
    expect(first).toMatchObject({ status: 'fulfilled', value: { value: 0 } })
    expect(second).toMatchObject({ status: 'rejected' })
    expect(third).toMatchObject({ status: 'fulfilled', value: { done: true } })
  })

  it('leaves no listener on the signal', async () => {
    const abort = new AbortController()
    let listeners = 0
    const { signal } = abort
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...args: Parameters<typeof add>) => (listeners++, add(...args))
    signal.removeEventListener = (...args: Parameters<typeof remove>) => (
      listeners--,
      remove(...args)
    )
    const { reader } = stream({ items: 8, bytes: 8 }, signal)
    expect(listeners).toBe(1)
    await reader.return()
    expect(listeners).toBe(0)
  })
})
