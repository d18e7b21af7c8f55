/**
 * The boundary, on whichever platform: the same tests run in Node's worker_threads and in
 * Chromium, against a core that is faked in the Worker.
 */
import { afterEach, describe, expect, it, vi } from 'vitest'

import {
  Broadcast,
  Live,
  type LogEntry,
  Room,
  type RoomEvent,
  RoomPublisher,
  RoomTicket,
  RoomsError,
  type TrackReader,
  type WorkerLike,
} from '../../src/index.js'
import { SILENT_ID, idOf } from './fake-core.js'

export interface Platform {
  /** The script of a Worker with the fake core. */
  readonly worker: () => URL | string
  /** Scripts that do not work, and what the error must name. */
  readonly missingWorker: () => URL | string
  /** A Worker with the fake core, as an application makes it itself. */
  readonly makeWorker: () => WorkerLike
}

const text = new TextDecoder()
const bytes = (value: string): Uint8Array => new TextEncoder().encode(value)

export function boundarySuite(platform: Platform): void {
  const open: Live[] = []

  async function spawn(options: Parameters<typeof Live.spawn>[0] = {}): Promise<Live> {
    const live = await Live.spawn({ worker: platform.worker(), ...options })
    open.push(live)
    return live
  }

  async function room(options: Parameters<typeof Room.open>[2] = {}): Promise<Room> {
    return Room.open(await spawn(), RoomTicket.generate(), options)
  }

  afterEach(async () => {
    await Promise.all(open.splice(0).map((live) => live.close()))
  })

  describe('start', () => {
    it('gives an endpoint', async () => {
      const live = await spawn()
      expect(live.endpointId).toMatch(/^[0-9a-f]{64}$/)
      expect(live.status).toBe('connected')
      expect(await live.addr()).toEqual({ id: live.endpointId, relayUrl: 'http://127.0.0.1:1/' })
    })

    it("rejects with the core's own error", async () => {
      const error = await spawn({ relay: 'http://unreachable.test' }).catch(caught)
      expect(RoomsError.is(error, 'RELAY_UNREACHABLE')).toBe(true)
    })

    it('names likely causes when the script is missing', async () => {
      const error = await Live.spawn({ worker: platform.missingWorker() }).catch(caught)
      expect(error).toMatchObject({ code: 'WORKER_START' })
      expect((error as Error).message).toContain('worker.js is not served')
    })

    it('survives a core that traps at once', async () => {
      const error = await spawn({ relay: 'http://trap.test' }).catch(caught)
      expect(RoomsError.is(error)).toBe(true)
    })

    it("rejects with the signal's reason", async () => {
      const signal = AbortSignal.timeout(50)
      const error = await spawn({ relay: 'http://never.test', signal }).catch(caught)
      expect(error).toBe(signal.reason)
    })

    it('refuses what is no relay, identity or ticket before anything starts', async () => {
      for (const options of [
        { relay: 'ftp://x' },
        { relay: '' },
        { relay: 'http://' },
        { relay: ['http://127.0.0.1:1', 'x'] },
        { relay: 'x'.repeat(1 << 20) },
        { relay: [] },
        { identity: new Uint8Array(3) },
        { maxConnections: 0 },
        { maxConnections: 1.5 },
        { maxConnections: 65_536 },
        { log: 'loud' as never },
      ]) {
        expect(await spawn(options).catch(caught)).toMatchObject({ code: 'INVALID_ARGUMENT' })
      }
      const live = await spawn()
      const good = String(RoomTicket.generate())
      for (const [ticket, why] of [
        ['nonsense', 'wrong prefix'],
        ['', 'wrong prefix'],
        [`blob${good.slice(4)}`, 'wrong prefix'],
        [good.slice(0, -2), 'cut short'],
        [`room${'a'.repeat(1 << 20)}`, 'longer than 1 KiB'],
        [`https://example.org/#room=${'x'.repeat(1 << 20)}`, 'longer than 1 KiB'],
        [42 as never, 'wrong prefix'],
        [null as never, 'wrong prefix'],
      ] as const) {
        const error = await Room.open(live, ticket).catch(caught)
        expect(error).toMatchObject({ code: 'INVALID_TICKET' })
        expect((error as Error).message).toContain(why)
        expect((error as Error).message.length).toBeLessThan(200)
      }
    })
  })

  describe('calls', () => {
    it('give values and typed errors with details', async () => {
      const here = await room({ displayName: 'Alice', presence: { at: 'desk' } })
      expect(here.self).toMatchObject({ displayName: 'Alice', presence: { at: 'desk' } })
      await here.setDisplayName('Bob')
      expect(here.self.displayName).toBe('Bob')
      const error = await here.sendChat('/fail').catch(caught)
      expect(RoomsError.is(error, 'SESSION_CLOSED') && error.details).toEqual({
        code: 5,
        reason: 'because',
      })
      const large = await here.setPresence('x'.repeat(3_000)).catch(caught)
      expect(RoomsError.is(large, 'TOO_LARGE') && large.details.limit).toBe(2_048)
    })

    it('are cancelled by their signal, with its reason, and the next ones are served', async () => {
      const here = await room()
      const abort = new AbortController()
      const waiting = here.subscribe(here.self, 'never', { signal: abort.signal }).catch(caught)
      abort.abort('enough')
      expect(await waiting).toBe('enough')
      expect((await here.sendChat('hello')).text).toBe('hello')
      const late = here.sendChat('x', { signal: AbortSignal.abort('before') }).catch(caught)
      expect(await late).toBe('before')
    })

    it('leave a room whose opening was aborted', async () => {
      const live = await spawn()
      const signal = AbortSignal.timeout(20)
      const options = { displayName: 'slow', signal }
      const error = await Room.open(live, RoomTicket.generate(), options).catch(caught)
      expect(error).toBe(signal.reason)
      await expect.poll(async () => (await live.stats()).rooms).toBe(1)
      expect(live.rooms.size).toBe(0)
    })

    it('name an argument that cannot be sent', async () => {
      const here = await room()
      const circular: { self?: unknown } = {}
      circular.self = circular
      const error = await here.channel<unknown>('c').send(circular).catch(caught)
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' })
    })

    it("answer the core's questions", async () => {
      const live = await spawn()
      live.link.answer(0, async (_kind, items) => items.map((item) => item === 'friend'))
      const here = await Room.open(live, RoomTicket.generate())
      await here.sendChat('/ask friend stranger')
      expect((await here.chat.history())[0]?.text).toBe('[true,false]')
    })
  })

  describe('the log', () => {
    it('comes to a function', async () => {
      const heard: LogEntry[] = []
      const live = await spawn({ log: (entry) => heard.push(entry) })
      const here = await Room.open(live, RoomTicket.generate())
      await here.sendChat('/log warn it broke')
      await here.sendChat('/log error for good')
      await expect.poll(() => heard.length).toBe(2)
      expect(heard).toEqual([
        { level: 'warn', target: 'fake::core', message: 'it broke' },
        { level: 'error', target: 'fake::core', message: 'for good' },
      ])
    })

    it('comes to the console from a level on, and not unless asked for', async () => {
      const said: unknown[][] = []
      const spies = (['warn', 'error'] as const).map((level) =>
        vi.spyOn(console, level).mockImplementation((...args) => void said.push([level, ...args])),
      )
      try {
        for (const log of ['off', 'error', 'warn'] as const) {
          const here = await Room.open(await spawn({ log }), RoomTicket.generate())
          await here.sendChat(`/log warn a warning of ${log}`)
          await here.sendChat(`/log error an error of ${log}`)
        }
        await expect.poll(() => said.length).toBe(3)
        expect(said).toEqual([
          ['error', 'fake::core: an error of error'],
          ['warn', 'fake::core: a warning of warn'],
          ['error', 'fake::core: an error of warn'],
        ])
      } finally {
        for (const spy of spies) spy.mockRestore()
      }
    })

    it('has an end in each second', async () => {
      const heard: LogEntry[] = []
      const live = await spawn({ log: (entry) => heard.push(entry) })
      const here = await Room.open(live, RoomTicket.generate())
      for (let i = 0; i < 200; i += 1) void here.sendChat(`/log warn ${i}`)
      await here.sendChat('/log warn last')
      expect(heard.length).toBeLessThan(100)
      await new Promise((resolve) => setTimeout(resolve, 1_000))
      await here.sendChat('/log warn after')
      await expect.poll(() => heard.at(-1)?.message).toBe('after')
      expect(heard.at(-2)?.message).toContain('were left out')
    })
  })

  describe('an abort', () => {
    it('ends what waits in the core, too', async () => {
      const here = await room()
      const before = await here.live.stats()
      const abort = new AbortController()
      const { signal } = abort
      const broadcast = new Broadcast()
      await here.publish('b', broadcast)
      const waiting = [
        here.subscribe(here.self, 'never', { signal }),
        here.live.moq.connect(SILENT_ID, { signal }),
        here.chat.messages({ history: false, signal }).next(),
        here.events({ signal }).next(),
      ].map((promise: Promise<unknown>) => promise.catch(caught))
      await expect.poll(async () => (await here.live.stats()).calls).toBeGreaterThan(before.calls)
      abort.abort('enough')
      expect(await Promise.all(waiting)).toEqual(waiting.map(() => 'enough'))
      await broadcast.close()
      await expect.poll(() => here.live.stats()).toEqual(before)
    })

    it('at any moment leaves nothing behind', async () => {
      const live = await spawn()
      const before = await live.stats()
      const moments: ((abort: () => void) => void)[] = [
        (abort) => abort(),
        (abort) => queueMicrotask(abort),
        ...[0, 1, 2, 4, 8].map((ms) => (abort: () => void) => void setTimeout(abort, ms)),
      ]
      for (const moment of moments) {
        const abort = new AbortController()
        const { signal } = abort
        moment(() => abort.abort('now'))
        const outcome = await Room.open(live, RoomTicket.generate(), { signal }).catch(caught)
        if (outcome instanceof Room) await outcome.leave()
        else expect(outcome).toBe('now')

        const again = new AbortController()
        moment(() => again.abort('now'))
        const started = await spawn({ signal: again.signal }).catch(caught)
        if (!(started instanceof Live)) expect(started).toBe('now')
      }
      await expect.poll(async () => ({ ...(await live.stats()), rooms: 0 })).toEqual(before)
      expect(live.rooms.size).toBe(0)
      expect(live.link.open).toEqual({ ports: 1, calls: 0 })
    })
  })

  describe('events', () => {
    it('reach every reader, each in order', async () => {
      const here = await room()
      await here.sendChat('/join ann')
      const heard: string[] = []
      here.on('peer-joined', ({ peer }) => heard.push(peer.displayName ?? ''))
      const late = here.events()
      await here.sendChat('/join bob')
      await here.sendChat('/say bob hi')
      await here.sendChat('/part ann')
      const types = ['peer-joined', 'peer-joined', 'chat-message', 'peer-left']
      expect((await take(late, 4)).map(({ type }) => type)).toEqual(types)
      const received = [await here.recv(), await here.recv(), await here.recv(), await here.recv()]
      expect(received.map((event) => event?.type)).toEqual(types)
      expect(heard.at(-1)).toBe('bob')
      expect([...here.peers.keys()]).toEqual([idOf('bob')])
      expect(here.tryRecv()).toBeUndefined()
    })

    it('give immutable peers', async () => {
      const here = await room()
      await here.sendChat('/join ann')
      const event = await here.recv()
      expect(Object.isFrozen(event)).toBe(true)
      expect(event?.type === 'peer-joined' && Object.isFrozen(event.peer)).toBe(true)
    })

    it('report how many a slow reader has missed', async () => {
      const here = await room()
      const slow = here.events({ buffer: 4 })
      await here.sendChat('/burst 1000')
      const first = await take(slow, 5)
      const lagged = first.find((event) => event.type === 'lagged')
      const texts = first.flatMap((event) => (event.type === 'chat-message' ? [event.text] : []))
      expect(lagged?.missed).toBe(1000 - 256 - texts.indexOf(String(1000 - 256)))
    })

    it('end with break, abort, leave and failure', async () => {
      const here = await room()
      const broken = here.events()
      await here.sendChat('/burst 2')
      for await (const event of broken) {
        expect(event.type).toBe('chat-message')
        break
      }
      expect(await broken.next()).toEqual({ done: true, value: undefined })

      const abort = new AbortController()
      const aborted = here.events({ signal: abort.signal })
      const waiting = take(aborted, 3).catch(caught)
      abort.abort('stop')
      expect(await waiting).toBe('stop')

      const failing = here.events()
      await here.sendChat('/say x last')
      await here.sendChat('/streams-fail')
      const seen: RoomEvent[] = []
      const error = await collect(failing, seen).catch(caught)
      expect(seen.map(({ type }) => type)).toEqual(['chat-message'])
      expect(error).toMatchObject({ code: 'PROTOCOL' })
    })

    it('come to their end when the room is left, once and for all', async () => {
      const here = await room()
      const events = here.events()
      const messages = here.chat.messages()
      expect(here.live.rooms.size).toBe(1)
      await Promise.all([here.leave(), here.close()])
      expect(await events.next()).toEqual({ done: true, value: undefined })
      expect(await messages.next()).toEqual({ done: true, value: undefined })
      expect(await here.recv()).toBeUndefined()
      expect(await here.closed).toEqual({ reason: 'left' })
      expect(here.status).toBe('disconnected')
      expect(here.live.rooms.size).toBe(0)
      expect(await here.sendChat('x').catch(caught)).toMatchObject({ code: 'CLOSED' })
      expect(await here.events().next().catch(caught)).toMatchObject({ code: 'CLOSED' })
    })

    it('that nobody reads do not outlive their room', async () => {
      const here = await room()
      const { live } = here
      const counters = async (): Promise<object> => {
        const { objects, ports } = await live.stats()
        return { objects, ports }
      }
      const unread = here.events({ buffer: 4 })
      // More than fits here and in the Worker: of the room's own reader, too.
      await here.sendChat('/burst 1000')
      await expect.poll(() => here.tryRecv()).toBeDefined()
      await here.leave()
      await expect.poll(counters).toEqual({ objects: 1, ports: 1 })
      expect((await take(unread, 4)).map(({ type }) => type)).toContain('chat-message')
      expect(await unread.next()).toEqual({ done: true, value: undefined })
    })
  })

  describe('chat and channels', () => {
    it("give everyone's messages once, one's own included", async () => {
      const here = await room()
      await here.chat.send('one')
      const messages = here.chat.messages()
      const fresh = here.chat.messages({ history: false })
      await here.chat.send('/say bob two')
      await here.chat.send('three')
      const texts = (await take(messages, 4)).map((message) => message.text)
      expect(texts.toSorted()).toEqual(['/say bob two', 'one', 'three', 'two'])
      expect((await take(fresh, 3)).map((message) => message.text)).not.toContain('one')
      expect((await here.chat.history()).length).toBe(4)
    })

    it('carry JSON', async () => {
      const here = await room()
      const cursors = here.channel<{ x: number }>('cursors')
      const messages = cursors.messages()
      // A call after the opening of the stream: the order of the port makes it stand.
      await here.stats()
      await cursors.send({ x: 1 }, { datagram: true })
      expect((await messages.next()).value).toEqual({ from: here.self.id, value: { x: 1 } })
    })
  })

  describe('broadcasts', () => {
    it('carry frames, those before publishing too', async () => {
      const here = await room()
      await using broadcast = new Broadcast()
      const writer = broadcast.track('clock')
      writer.write(bytes('old'))
      writer.write(bytes('new'), { timestamp: 7 })
      await here.publish('self', broadcast)
      expect(here.self.broadcasts).toEqual(['self'])
      const remote = await here.subscribe(here.self, 'self')
      const frames = remote.track('clock').frames()
      const first = (await frames.next()).value
      expect(first && text.decode(first.data)).toBe('new')
      expect(first?.timestamp).toBe(7)
      await writer.used()
      expect(writer.demand).toBe(true)
      await frames.return()
      await writer.unused()
      expect(writer.demand).toBe(false)
    })

    it('are read as groups', async () => {
      const here = await room()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await here.publish('b', broadcast)
      const reader = (await here.subscribe(here.self, 'b')).track('t')
      await writer.used()
      for (const name of ['a', 'b', 'c']) {
        using group = writer.group()
        group.write(bytes(`${name}0`))
        group.write(bytes(`${name}1`))
      }
      await writer.close()
      const seen: string[] = []
      for await (const group of reader) {
        // The second group is left unread.
        if (group.sequence === 1) continue
        for await (const frame of group) seen.push(`${group.sequence}:${text.decode(frame.data)}`)
      }
      expect(seen).toEqual(['0:a0', '0:a1', '2:c0', '2:c1'])
    })

    it('can be written and ended before they are published', async () => {
      const here = await room()
      const broadcast = new Broadcast()
      const writer = broadcast.track('static')
      const group = writer.group()
      group.write(bytes('a'))
      group.write(bytes('b'))
      group.close()
      await writer.close()
      await here.publish('b', broadcast)
      const reader = (await here.subscribe(here.self, 'b')).track('static')
      const seen: string[] = []
      for await (const frame of reader.frames()) seen.push(text.decode(frame.data))
      expect(seen).toEqual(['a', 'b'])
    })

    it('come as a ReadableStream', async () => {
      const here = await room()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await here.publish('b', broadcast)
      const stream = (await here.subscribe(here.self, 'b')).track('t').toReadable()
      await writer.used()
      for (let i = 0; i < 10; i += 1) writer.write(bytes(String(i)))
      await broadcast.close()
      const reader = stream.getReader()
      const seen: string[] = []
      for (;;) {
        const { done, value } = await reader.read()
        if (done) break
        seen.push(text.decode(value.data))
      }
      expect(seen.join('')).toBe('0123456789')
    })

    it('hold a writer back, and copy unless told otherwise', async () => {
      const here = await room()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await here.publish('b', broadcast)
      const kept = new Uint8Array(1 << 20)
      const given = new Uint8Array(10)
      writer.write(given, { transfer: true })
      expect(given.byteLength).toBe(0)
      for (let i = 0; i < 15; i += 1) writer.write(kept)
      expect(() => {
        for (let i = 0; i < 5; i += 1) writer.write(kept)
      }).toThrow(/await writer.ready/)
      expect(kept.byteLength).toBe(1 << 20)
      await writer.ready
      writer.write(kept)
    })

    it('are what they were when they were written', async () => {
      const here = await room()
      const broadcast = new Broadcast()
      const options = { maxAgeMs: 10_000 }
      const reused = typeof Buffer === 'undefined' ? new Uint8Array(1) : Buffer.alloc(1)
      const write = (name: string): void => {
        const group = broadcast.track(name, options).group()
        for (let i = 0; i < 5; i += 1) {
          reused[0] = i
          group.write(reused)
        }
        group.close()
      }
      write('before')
      await here.publish('b', broadcast)
      write('after')
      reused[0] = 99
      const remote = await here.subscribe(here.self, 'b')
      for (const name of ['before', 'after']) {
        const frames = await take(remote.track(name, { ...options, start: 0 }).frames(), 5)
        expect(frames.map(({ data }) => data[0])).toEqual([0, 1, 2, 3, 4])
      }
    })

    it('hold a writer back until the network has taken it', async () => {
      const here = await room()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await here.publish('b', broadcast)
      const frames = (await here.subscribe(here.self, 'b')).track('t').frames()
      await writer.used()
      writer.write(bytes('hold'))
      for (let i = 0; i < 300; i += 1) writer.write(bytes('x'))
      let taken = false
      const ready = writer.ready.then(() => (taken = true))
      // A call after all writes: when it is answered, they have been worked on.
      await here.stats()
      expect(taken).toBe(false)
      await frames.return()
      await ready
      await broadcast.close()
    })

    it('tell a reader how many groups it lost, before the next and at the end', async () => {
      const here = await room()
      const broadcast = new Broadcast()
      await here.publish('b', broadcast)
      const remote = await here.subscribe(here.self, 'b')
      const lossy = async (name: string): Promise<TrackReader> => {
        const writer = broadcast.track(name)
        const track = remote.track(name)
        await writer.used()
        for (const word of ['one', 'lost', 'lost', 'two', 'lost']) writer.write(bytes(word))
        await writer.close()
        return track
      }
      const reader = await lossy('frames')
      const seen: unknown[] = []
      for await (const { data, missed } of reader.frames()) seen.push(text.decode(data), missed)
      expect(seen).toEqual(['one', undefined, 'two', 2])
      expect(reader.missed).toBe(3)
      const counts: number[] = []
      for await (const group of await lossy('groups')) counts.push(group.missed)
      expect(counts).toEqual([0, 2])
    })

    it('carry datagrams, and give out old groups', async () => {
      const here = await room()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await here.publish('b', broadcast)
      const remote = await here.subscribe(here.self, 'b')
      const datagrams = remote.datagrams('t')
      // Until somebody listens there is nobody to get it.
      const sending = setInterval(() => writer.datagram(bytes('quick'), { timestamp: 5 }), 10)
      const datagram = (await datagrams.next()).value
      clearInterval(sending)
      expect(datagram).toMatchObject({ data: bytes('quick'), timestamp: 5 })
      await datagrams.return()
      const frames = remote.track('t').frames()
      await writer.used()
      for (const word of ['old', 'new']) writer.write(bytes(word))
      const [first] = await take(frames, 2)
      const old: string[] = []
      for await (const { data } of remote.fetch('t', first!.group)) old.push(text.decode(data))
      expect(old).toEqual(['old'])
      const missing = await remote.fetch('t', 99).next().catch(caught)
      expect(missing).toMatchObject({ code: 'NOT_ANNOUNCED' })
    })

    it("report the core's refusal and a missing track", async () => {
      const here = await room()
      const broadcast = new Broadcast()
      broadcast.track('twice')
      const second = broadcast.track('twice')
      await here.publish('b', broadcast)
      expect((await second.closed).error).toMatchObject({ code: 'INVALID_ARGUMENT' })
      expect(() => second.write(bytes('x'))).toThrow(RoomsError)
      const reader = (await here.subscribe(here.self, 'b')).track('missing')
      expect(await reader.frames().next().catch(caught)).toMatchObject({ code: 'NOT_ANNOUNCED' })
    })

    it("tell readers a writer's code, and that a broadcast is over", async () => {
      const here = await room()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await here.publish('b', broadcast)
      const remote = await here.subscribe(here.self, 'b')
      const reader = remote.track('t').frames()
      await writer.used()
      writer.abort(42)
      const error = await reader.next().catch(caught)
      expect(RoomsError.is(error, 'TRACK_CLOSED') && error.details.code).toBe(42)
      const { closed } = remote
      await broadcast.close()
      await closed
      expect(() => broadcast.track('u')).toThrow(/closed/)
    })

    it('belong to one Live', async () => {
      const [one, two] = [await room(), await room()]
      const broadcast = new Broadcast()
      await one.publish('b', broadcast)
      expect(await two.publish('b', broadcast).catch(caught)).toMatchObject({
        code: 'INVALID_ARGUMENT',
      })
    })
  })

  describe('a publisher', () => {
    const sources = () => {
      const made: Broadcast[] = []
      const make = async (): Promise<Broadcast> => {
        const broadcast = new Broadcast()
        made.push(broadcast)
        return broadcast
      }
      return { made, camera: make, screen: make }
    }

    it('publishes the camera from the start, and the screen while it is shared', async () => {
      const here = await room()
      const { made, camera, screen } = sources()
      const publisher = new RoomPublisher(here, { camera, screen })
      const states: unknown[] = []
      publisher.on('state', ({ state }) => states.push(state.screen))
      await publisher.setState({})
      expect(here.self.broadcasts).toEqual(['camera'])
      await publisher.setState({ screen: true })
      await publisher.setState({ screen: true, camera: false })
      expect(here.self.broadcasts).toEqual(['camera', 'screen'])
      expect(publisher.state).toEqual({ camera: false, microphone: true, screen: true })
      await publisher.setState({ screen: false, microphone: false })
      expect(here.self.broadcasts).toEqual([])
      await Promise.all(made.map(({ closed }) => closed))
      expect(made).toHaveLength(2)
      expect(states).toEqual([true, true, false])
      await Promise.all([publisher.close(), publisher.close()])
      expect(await publisher.setState({}).catch(caught)).toMatchObject({ code: 'CLOSED' })
    })

    it('lets the last state win, however fast they come', async () => {
      const here = await room()
      const { made, camera, screen } = sources()
      await using publisher = new RoomPublisher(here, { camera, screen }, { camera: false })
      await Promise.all([true, false, true, false].map((on) => publisher.setState({ screen: on })))
      expect(here.self.broadcasts).toEqual(['camera'])
      expect(publisher.state.screen).toBe(false)
      await publisher.close()
      expect(here.self.broadcasts).toEqual([])
      await Promise.all(made.map(({ closed }) => closed))
    })

    it('takes back what could not be made', async () => {
      const here = await room()
      const { camera } = sources()
      const screen = (): Promise<Broadcast> => Promise.reject(new Error('not allowed'))
      await using publisher = new RoomPublisher(here, { camera, screen })
      expect(await publisher.setState({ screen: true }).catch(String)).toBe('Error: not allowed')
      expect(publisher.state).toMatchObject({ camera: true, screen: false })
      await publisher.setState({ microphone: false })
      expect(here.self.broadcasts).toEqual(['camera'])
    })
  })

  describe('moq', () => {
    it("serves the endpoint's own scope", async () => {
      const live = await spawn()
      const broadcast = new Broadcast()
      await live.moq.publish('x', broadcast)
      expect(await live.moq.publishedBroadcasts()).toEqual(['x'])
      const session = await live.moq.connect(live.endpointId)
      expect(session.version).toBe('moq-lite-06')
      const announced = session.announced()
      expect((await announced.next()).value).toMatchObject({ name: 'x', active: true })
      expect(await live.moq.unpublish('x')).toBe(true)
      expect((await announced.next()).value).toMatchObject({ name: 'x', active: false })
      expect(await session.stats().catch(caught)).toMatchObject({ code: 'SESSION_CLOSED' })
      expect(await live.moq.connect('cc'.repeat(32)).catch(caught)).toMatchObject({
        code: 'CONNECT_FAILED',
      })
    })

    it('hands out incoming sessions', async () => {
      const live = await spawn({ moq: { accept: 'manual' } })
      const incoming = live.moq.incomingSessions()
      live.link.lifecycle('visible')
      const session = await (await incoming.next()).value?.accept()
      expect(session?.remoteId).toBe(live.endpointId)
    })

    it('says how many incoming sessions were skipped', async () => {
      const live = await spawn()
      const incoming = live.moq.incomingSessions()
      live.link.lifecycle('visible')
      expect((await incoming.next()).value?.skipped).toBe(2)
      await live.moq.shutdown()
    })

    it('publishes by a session as by its scope', async () => {
      const live = await spawn()
      const session = await live.moq.connect(live.endpointId)
      await session.publish('y', new Broadcast())
      expect(await live.moq.publishedBroadcasts()).toEqual(['y'])
    })
  })

  describe('crash', () => {
    it('settles everything that waits, after a trap', async () => {
      const here = await room()
      const { live } = here
      const events = here.events()
      const hanging = here.sendChat('/hang').catch(caught)
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await here.publish('b', broadcast)
      const trapped = here.sendChat('/trap').catch(caught)
      expect(await hanging).toMatchObject({ code: 'WORKER_CRASHED' })
      expect(await trapped).toMatchObject({ code: 'WORKER_CRASHED' })
      expect(await collect(events, []).catch(caught)).toMatchObject({ code: 'WORKER_CRASHED' })
      expect((await writer.closed).error).toMatchObject({ code: 'WORKER_CRASHED' })
      expect(await live.closed).toMatchObject({ reason: 'crashed' })
      expect(await here.closed).toMatchObject({ reason: 'crashed' })
      expect(await here.chat.messages({ history: false }).next().catch(caught)).toMatchObject({
        code: 'WORKER_CRASHED',
      })
      expect(await live.stats().catch(caught)).toMatchObject({ code: 'WORKER_CRASHED' })
      await live.close()
    })

    it('settles everything that waits, after somebody else terminated the Worker', async () => {
      const worker = platform.makeWorker()
      const here = await Room.open(await spawn({ worker }), RoomTicket.generate())
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await here.publish('b', broadcast)
      const reader = (await here.subscribe(here.self, 'b')).track('t')
      await writer.used()
      const waiting: Promise<unknown>[] = [
        here.sendChat('/hang'),
        here.subscribe(here.self, 'never'),
        take(here.events(), 9),
        here.channel('c').messages().next(),
        here.chat.messages().next(),
        reader.frames().next(),
        writer.unused(),
      ]
      const [unread] = [here.events()]
      worker.terminate()
      for (const promise of waiting) {
        expect(await promise.catch(caught)).toMatchObject({ code: 'WORKER_CRASHED' })
      }
      expect(await collect(unread, []).catch(caught)).toMatchObject({ code: 'WORKER_CRASHED' })
      expect(await here.closed).toMatchObject({ reason: 'crashed' })
      expect(await here.live.stats().catch(caught)).toMatchObject({ code: 'WORKER_CRASHED' })
      expect(here.live.link.open).toEqual({ ports: 0, calls: 0 })
      await here.live.close()
    })

    it('is noticed when a task of the core traps', async () => {
      const here = await room()
      const error = await here.sendChat('/trap-in-task').catch(caught)
      expect(error).toMatchObject({ code: 'WORKER_CRASHED' })
      expect((error as Error).message).toContain('unreachable')
    })
  })

  describe('close', () => {
    it('is idempotent, ends rooms, and refuses what comes after', async () => {
      const here = await room()
      const { live } = here
      const events = here.events()
      const statuses: string[] = []
      live.on('status', ({ status }) => statuses.push(status))
      await Promise.all([live.close(), live.close()])
      expect(await events.next()).toEqual({ done: true, value: undefined })
      expect(await here.closed).toEqual({ reason: 'live-closed' })
      expect(await live.closed).toEqual({ reason: 'closed' })
      expect(await live.stats().catch(caught)).toMatchObject({ code: 'CLOSED' })
      expect(live.status).toBe('disconnected')
      expect(statuses).toEqual(['disconnected'])
      await here.leave()
    })

    it('fails what is under way', async () => {
      const here = await room()
      const hanging = here.sendChat('/hang').catch(caught)
      await here.live.close()
      expect(await hanging).toMatchObject({ code: 'CLOSED' })
    })

    it('ends in time even if the core does not', async () => {
      const live = await spawn({ relay: 'http://stuck.test' })
      const start = performance.now()
      await live.close()
      expect(performance.now() - start).toBeLessThan(4_000)
    })

    it('happens at the end of a block', async () => {
      let ended: Live['closed']
      {
        await using live = await spawn()
        ended = live.closed
      }
      expect(await ended).toEqual({ reason: 'closed' })
    })
  })

  it('forwards what happens to the page', async () => {
    const live = await spawn()
    const status = new Promise((resolve) => live.once('status', resolve))
    live.link.lifecycle('frozen')
    expect(await status).toEqual({ type: 'status', status: 'reconnecting' })
    expect(live.status).toBe('reconnecting')
  })
}

const caught = (error: unknown): unknown => error

async function take<T>(items: AsyncIterator<T, undefined>, count: number): Promise<T[]> {
  const taken: T[] = []
  while (taken.length < count) {
    const { done, value } = await items.next()
    if (done) break
    taken.push(value)
  }
  return taken
}

async function collect<T>(items: AsyncIterable<T>, into: T[]): Promise<void> {
  for await (const item of items) into.push(item)
}
