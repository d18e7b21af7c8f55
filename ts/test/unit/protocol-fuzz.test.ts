/**
 * Both ends of the Worker's protocol against messages that nobody of ours would send: no handler
 * throws, everything settles, nothing grows beyond what was granted.
 *
 * `FUZZ_MS=600000` makes it ten minutes, `FUZZ_SEED` repeats a run; what was found stays here as an
 * example. An uncaught rejection anywhere fails the run by itself.
 */
import * as fc from 'fast-check'
import { expect, it } from 'vitest'

import { Broadcast } from '../../src/broadcast.js'
import { type HostListeners, Link, type WorkerHost } from '../../src/internal/link.js'
import { PortStream, StreamState } from '../../src/internal/port-stream.js'
import { PROTOCOL } from '../../src/wire.js'
import { Api } from '../../worker/api.js'
import { Asks } from '../../worker/asks.js'
import { serve } from '../../worker/boot.js'
import type { StreamHandle } from '../../worker/core-module.js'
import type { Method } from '../../worker/protocol.js'
import { FakeStream, fakeModule } from '../support/fake-core.js'

const total = Number(process.env['FUZZ_MS'] ?? 18_000)
const seed = Number(process.env['FUZZ_SEED'] ?? Date.now() % 2 ** 31)
const TARGETS = 6

/** Runs a property for this target's share of the time. */
function fuzz<T extends [unknown, ...unknown[]]>(
  name: string,
  arbitraries: { [K in keyof T]: fc.Arbitrary<T[K]> },
  property: (...values: NoInfer<T>) => Promise<void>,
  examples: NoInfer<T>[] = [],
): void {
  it(`${name} (FUZZ_SEED=${seed})`, { timeout: total + 60_000 }, async () => {
    let runs = 0
    await fc.assert(
      fc.asyncProperty(...arbitraries, (...values: T) => {
        runs += 1
        return property(...values)
      }),
      { seed, examples, numRuns: 1e9, interruptAfterTimeLimit: total / TARGETS },
    )
    if (process.env['FUZZ_MS']) console.log(`${name}: ${runs} runs, FUZZ_SEED=${seed}`)
    expect(runs).toBeGreaterThan(examples.length)
  })
}

const anything: fc.Arbitrary<unknown> = fc.oneof(
  fc.anything({ withTypedArray: true, withBigInt: true, maxDepth: 2 }),
  fc.constantFrom<unknown>(null, undefined, Number.NaN, Infinity, -1, 2 ** 60, '__proto__', 'then'),
)

/** One of these objects, most often with some fields exchanged or left out, or something else. */
function mutated(...templates: readonly object[]): fc.Arbitrary<unknown> {
  const field = fc.tuple(fc.nat(), fc.option(anything, { nil: undefined }), fc.boolean())
  const changed = fc
    .tuple(fc.constantFrom(...templates), fc.array(field, { maxLength: 2 }))
    .map(([template, changes]) => {
      const message = Object.assign({} as Record<string, unknown>, template)
      const keys = Object.keys(message)
      for (const [at, value, remove] of changes) {
        const key = keys[at % keys.length] ?? 't'
        if (remove) delete message[key]
        else message[key] = value
      }
      return message
    })
  return fc.oneof({ weight: 1, arbitrary: anything }, { weight: 8, arbitrary: changed })
}

/** A port whose far end the test plays: what a handler throws, the test throws. */
class Port {
  posted: { t?: unknown; v?: unknown[] }[] = []
  closed = false
  #listener: ((event: { data: unknown }) => void) | undefined

  postMessage(message: { t?: unknown }): void {
    this.posted.push(message)
  }

  addEventListener(_type: string, listener: (event: { data: unknown }) => void): void {
    this.#listener = listener
  }

  removeEventListener(): void {}

  start(): void {}

  close(): void {
    this.closed = true
  }

  deliver(data: unknown): void {
    // Also when it is closed: what was under way may still come.
    this.#listener?.({ data })
  }

  get asPort(): MessagePort {
    return this as unknown as MessagePort
  }
}

/** Lets everything run that waits for nothing but its turn. */
async function idle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}

async function settles(promise: Promise<unknown>, what: string): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} does not settle`)), 10_000)
  })
  await Promise.race([promise.catch(() => undefined), late])
  clearTimeout(timer)
}

const error = { code: 'PROTOCOL', message: 'x' }
const options = { relays: 'n0', moqAccept: 'all' } as const

fuzz(
  "the Worker's own channel",
  [
    fc.array(
      mutated(
        {
          t: 'boot',
          protocol: PROTOCOL,
          port: new Port(),
          wasm: undefined,
          lock: undefined,
          log: undefined,
          options,
        },
        { t: 'lifecycle', state: 'hidden' },
        { t: 'lifecycle', state: 'leaving' },
        { t: 'answer', id: 1, result: { ok: true, value: [true] } },
        { t: 'answer', id: 1, result: { ok: false, error } },
      ),
      { maxLength: 8 },
    ),
  ],
  async (messages) => {
    const said: { t: string }[] = []
    let receive: (message: never) => void = () => undefined
    const asks = serve(
      {
        listen: (listener) => (receive = listener),
        post: (message) => said.push(message),
        onUncaught: () => undefined,
      },
      async () => fakeModule,
    )
    const asked = asks.ask(1, 'decide', [1]).catch(() => undefined)
    for (const message of messages) {
      receive(message as never)
      await idle()
    }
    asks.answer({ t: 'answer', id: 1, result: { ok: true, value: [true] } })
    await settles(asked, 'a question')
    await idle()
    const kinds = said.map(({ t }) => t)
    const started = kinds.filter((kind) => kind === 'booting').length
    expect(started).toBeLessThanOrEqual(1)
    expect(kinds.filter((kind) => kind === 'ready' || kind === 'failed')).toHaveLength(started)
    expect(kinds.length).toBeLessThanOrEqual(2 + 2 * started)
  },
  [[[null, { t: 'boot' }, { t: 'answer', id: 1, result: { ok: true } }]]],
)

const ROOM = 1
const BROADCAST = 2
const STATE_ROOM = 3
const agreed = {
  participantId: 'alice',
  autoSubscribe: true,
  reducer: false,
  validate: false,
  admit: false,
  approval: 'guard',
  recovery: 'auto',
  voters: 5,
  priority: 3,
  joinTimeoutMs: 100,
}
const asks = new Asks(() => undefined)
const id = 'aa'.repeat(32)
const read = { priority: 1, maxAgeMs: 0, ordered: true }
const track = { priority: 1, maxAgeMs: 0 }
const CALLS: { [M in Method]: readonly unknown[] } = {
  addr: [],
  stats: [],
  statusChanges: ['port'],
  shutdown: [1],
  openRoom: [ROOM, 'roomticket', { autoSubscribe: true }, 'port', 'port'],
  openStateRoom: [STATE_ROOM, 'create', 'name', agreed, 'port', 'port', 'port', 'port'],
  propose: [STATE_ROOM, 'merge', '{"a":1}', undefined],
  kick: [STATE_ROOM, 'bob'],
  lock: [STATE_ROOM, true],
  setModerators: [STATE_ROOM, [id]],
  rotate: [STATE_ROOM],
  recover: [STATE_ROOM],
  saved: [STATE_ROOM],
  leaveRoom: [ROOM],
  roomEvents: [ROOM, 'port'],
  roomTicket: [ROOM],
  roomSelf: [ROOM],
  roomStats: [ROOM],
  diagnose: [ROOM],
  setDisplayName: [ROOM, 'name'],
  setPresence: [ROOM, '{}'],
  sendChat: [ROOM, 'hello'],
  chatHistory: [ROOM],
  setChatPublisher: [ROOM, BROADCAST],
  channelSend: [ROOM, 'c', '{}', undefined, false],
  channelMessages: [ROOM, 'c', 'port'],
  publish: [ROOM, 'b', BROADCAST],
  unpublish: [ROOM, 'b'],
  publishedBroadcasts: [0],
  connect: [0, { id }],
  sessionInfo: [0, id],
  sessionStats: [0, id],
  sessionClosed: [0, id],
  closeSession: [0, id, 0, ''],
  announced: [0, id, 'port'],
  incomingSessions: ['port'],
  decideIncoming: [1, true],
  moqShutdown: [],
  waitBroadcast: [ROOM, id, 'b'],
  broadcastClosed: [ROOM, id, 'b'],
  readTrack: [ROOM, id, 'b', 't', read, 'port'],
  readDatagrams: [ROOM, id, 'b', 't', 'port'],
  fetchGroup: [ROOM, id, 'b', 't', 0, 'port'],
  broadcastOpen: [BROADCAST],
  broadcastClose: [BROADCAST, undefined],
  trackOpen: [BROADCAST, 't', track, 'port'],
}

const call = fc.constantFrom(...Object.entries<readonly unknown[]>(CALLS)).chain(([method, args]) =>
  fc.record({
    method: fc.oneof(
      { weight: 20, arbitrary: fc.constant<unknown>(method) },
      { weight: 1, arbitrary: anything },
    ),
    args: fc.oneof(
      { weight: 4, arbitrary: fc.constant<unknown>(args) },
      {
        weight: 2,
        arbitrary: fc
          .tuple(fc.nat(), anything)
          .map(([at, value]) => args.map((arg, i) => (i === at % args.length ? value : arg))),
      },
      { weight: 1, arbitrary: anything },
    ),
  }),
)

fuzz(
  'calls',
  [fc.array(call, { maxLength: 12 })],
  async (calls) => {
    const core = await fakeModule.Core.spawn({ ...options })
    const broken: unknown[] = []
    const api = new Api(fakeModule, core, asks, (crash) => broken.push(crash))
    const results: Promise<unknown>[] = []
    const ports: Port[] = []
    calls.forEach(({ method, args }, op) => {
      const given = Array.isArray(args)
        ? args.map((arg: unknown) => {
            if (arg !== 'port') return arg
            const port = new Port()
            ports.push(port)
            return port
          })
        : args
      results.push(api.invoke(op, method as Method, given as unknown[]))
    })
    await idle()
    calls.forEach((_, op) => api.cancel(op))
    for (const result of await Promise.all(results)) {
      expect((result as { ok: unknown }).ok).toBeTypeOf('boolean')
    }
    expect(broken).toEqual([])
    for (const port of ports) port.deliver({ t: 'cancel' })
    await idle()
    expect(api.ports.size).toBeLessThanOrEqual(
      calls.filter(({ method }) => method === 'trackOpen').length,
    )
  },
  [[[{ method: 'statusChanges', args: [undefined] }]]],
)

const up = mutated(
  { t: 'credit', n: 3, bytes: 100 },
  { t: 'cancel' },
  { t: 'write', data: new Uint8Array(3), ts: undefined },
  { t: 'datagram', data: new Uint8Array(3), ts: 1 },
  { t: 'group', group: 1 },
  { t: 'frame', group: 1, data: new Uint8Array(3), ts: undefined },
  { t: 'group-end', group: 1, code: undefined },
  {
    t: 'batch',
    v: [
      { t: 'group', group: 2 },
      { t: 'frame', group: 2, data: new Uint8Array(2), ts: undefined },
      { t: 'group-end', group: 2, code: 5 },
    ],
  },
  { t: 'end', code: 3 },
)

fuzz(
  "the Worker's ends of data ports",
  [fc.array(fc.tuple(fc.boolean(), up), { maxLength: 20 })],
  async (messages) => {
    const core = await fakeModule.Core.spawn({ ...options })
    const api = new Api(fakeModule, core, asks, () => expect.unreachable())
    const stream = new FakeStream()
    core.statusChanges = (): StreamHandle => stream
    const [reading, writing] = [new Port(), new Port()]
    await api.invoke(1, 'statusChanges', [reading.asPort])
    await api.invoke(2, 'broadcastOpen', [BROADCAST])
    await api.invoke(3, 'trackOpen', [BROADCAST, 't', track, writing.asPort])
    let granted = 0
    for (const [toReader, message] of messages) {
      if (toReader) {
        const { n } = Object(message) as { n?: unknown }
        if (typeof n === 'number' && n > 0) granted += n
        reading.deliver(message)
      } else writing.deliver(message)
      for (let i = 0; i < 5; i += 1) stream.push({ status: 'connected' })
      await idle()
    }
    const sent = reading.posted.reduce((sum, { v }) => sum + (v?.length ?? 0), 0)
    expect(sent).toBeLessThanOrEqual(Math.ceil(granted))
    expect(writing.posted.length).toBeLessThanOrEqual(messages.length + 1)
    reading.deliver({ t: 'cancel' })
    writing.deliver({ t: 'end', code: undefined })
    await idle()
    await api.invoke(4, 'broadcastClose', [BROADCAST, undefined])
    const { value } = (await api.invoke(5, 'stats', [])) as { value: unknown }
    expect(value).toMatchObject({ objects: 0, ports: 0 })
    expect([reading.closed, writing.closed]).toEqual([true, true])
  },
  [[[[false, { t: 'write' }]]], [[[true, null]]], [[[true, { t: 'credit', n: Number.NaN }]]]],
)

class Host implements WorkerHost {
  listeners: HostListeners | undefined
  port: MessagePort | undefined

  post(message: unknown): void {
    this.port = (message as { port?: MessagePort }).port ?? this.port
  }

  listen(listeners: HostListeners): void {
    this.listeners = listeners
  }

  terminate(): void {
    this.port?.close()
  }

  readonly lock = undefined

  watch(): void {}

  unref(): void {}
}

const ready = {
  t: 'ready',
  protocol: PROTOCOL,
  coreVersion: '0',
  endpointId: id,
  status: 'connected',
}
const boot = { wasm: undefined, options } as const

async function started(): Promise<{ host: Host; link: Link }> {
  const host = new Host()
  const link = Link.start({ host, boot })
  host.listeners?.message(ready)
  return { host, link: await link }
}

fuzz(
  "the page's end of the Worker's channel",
  [
    fc.array(
      mutated(
        ready,
        { t: 'booting' },
        { t: 'failed', error },
        { t: 'fatal', error },
        { t: 'ask', id: 1, kind: 'admit', items: [1], limitMs: 5 },
      ),
      { maxLength: 8 },
    ),
    fc.boolean(),
  ],
  async (messages, afterStart) => {
    const host = new Host()
    const starting = Link.start({ host, boot, timeoutMs: 20 })
    starting.catch(() => undefined)
    if (afterStart) host.listeners?.message(ready)
    for (const message of messages) {
      host.listeners?.message(message)
      await Promise.resolve()
    }
    await settles(starting, 'the start')
    const link = await starting.catch(() => undefined)
    if (!link) return
    link.answer(1, async () => [() => undefined])
    for (const message of messages) host.listeners?.message(message)
    const calls = [link.call('stats', []), link.call('waitBroadcast', [1, id, 'b'])]
    for (const waiting of calls) waiting.catch(() => undefined)
    host.listeners?.error('gone')
    for (const waiting of calls) await settles(waiting, 'a call')
    await settles(link.ended, 'the end')
  },
  [
    [[null, { t: 'fatal' }], true],
    [[{ t: 'failed' }], false],
    [[{ t: 'ask' }], true],
  ],
)

fuzz(
  "the reader's end of a data port",
  [
    fc.array(
      mutated(
        { t: 'items', v: [{ n: 1 }, { n: 2 }] },
        { t: 'items', v: Array.from({ length: 9 }, () => ({ n: 1 })) },
        { t: 'items', v: '[{"n":1},{"n":2}]' },
        { t: 'end' },
        { t: 'err', error },
      ),
      { maxLength: 12 },
    ),
    fc.array(fc.constantFrom('next', 'try', 'nothing'), { maxLength: 12 }),
  ],
  async (messages, reads) => {
    const port = new Port()
    const window = { items: 8, bytes: 100 }
    const state = new StreamState<number>(port, {
      window,
      map: (wire: { n: number }) => wire.n,
      sizeOf: (wire: { size?: number }) => wire.size ?? 0,
    })
    const reader = new PortStream(state)
    const waiting: Promise<unknown>[] = []
    messages.forEach((message, i) => {
      if (reads[i] === 'next') waiting.push(reader.next())
      if (reads[i] === 'try') reader.tryNext()
      port.deliver(message)
      expect(state.buffered).toBeLessThanOrEqual(window.items)
    })
    for (const next of waiting) next.catch(() => undefined)
    await reader.return()
    for (const next of waiting) await settles(next, 'a read')
    expect(port.closed).toBe(true)
    expect(await reader.next()).toEqual({ done: true, value: undefined })
  },
  [
    [[{ t: 'items' }], []],
    [[{ t: 'items', v: [null] }], []],
    [[{ t: 'items', v: '[{"n":1}' }], ['next']],
    [[{ t: 'items', v: '7' }], ['next']],
    [[{ t: 'err' }], ['next']],
  ],
)

fuzz(
  "the writer's end of a data port",
  [
    fc.array(
      mutated(
        { t: 'ack', n: 1, bytes: 3 },
        { t: 'demand', used: true },
        { t: 'demand', used: false },
        { t: 'closed', error },
        { t: 'closed', error: undefined },
      ),
      { maxLength: 10 },
    ),
  ],
  async (messages) => {
    const { host, link } = await started()
    const channel = new Port()
    link.newChannel = (onEnd): MessageChannel => {
      void link.ended.then(() => onEnd(new Error('ended') as never))
      return { port1: channel.asPort, port2: new Port().asPort }
    }
    // What is sent is the other targets' matter.
    link.call = (): Promise<never> => new Promise(() => undefined)
    const broadcast = new Broadcast()
    const writer = broadcast.track('t')
    broadcast.attach(link)
    const waiting: Promise<unknown>[] = [writer.ready, writer.used(), writer.unused()]
    for (const message of messages) {
      channel.deliver(message)
      try {
        writer.write(new Uint8Array(10))
      } catch {
        // It was told that it has ended.
      }
    }
    waiting.push(writer.ready, writer.closed)
    for (const promise of waiting) promise.catch(() => undefined)
    host.listeners?.error('gone')
    for (const promise of waiting) await settles(promise, 'a wait')
  },
  [[[null, { t: 'ack', bytes: 0n }, { t: 'closed', error: null }]]],
)
