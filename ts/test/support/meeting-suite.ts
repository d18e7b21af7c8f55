/**
 * Two endpoints meet: with the real core over a relay, in Node and in Chromium, and in the network in
 * memory, which is to behave like that.
 */
import { afterEach, describe, expect, inject, it } from 'vitest'

import {
  Broadcast,
  Live,
  type LiveOptions,
  Room,
  type RoomEvent,
  type RoomOptions,
  RoomPublisher,
  RoomTicket,
} from '../../src/index.js'

const caught = (error: unknown): unknown => error

export interface Meeting {
  readonly spawn: (options?: LiveOptions) => Promise<Live>
  readonly relay: () => string
}

/** Endpoints with the real core. */
export function realMeeting(worker: () => URL, relay: () => string): Meeting {
  return {
    relay,
    spawn: (options) => Live.spawn({ worker: worker(), relay: relay(), ...options }),
  }
}

/** Nobody listens on the discard port. */
const DEAD_RELAY = 'http://127.0.0.1:9/'

type Found<K> = Extract<RoomEvent, { type: K }>

/** Reads the room's cursor until an event of a type. */
async function until<K extends RoomEvent['type']>(room: Room, type: K): Promise<Found<K>> {
  for (;;) {
    const event = await room.recv()
    if (!event) throw new Error(`the room ended before ${type}`)
    if (event.type === type) return event as Found<K>
  }
}

/** What only the real core has: it is loaded, looks for a relay, and can meet peers of iroh-live. */
export function startSuite({ spawn }: Meeting): void {
  it.each(['missing', 'page'])('says that the module is not there: %s', async (path) => {
    const error = await spawn({ wasm: new URL(path, inject('trap')) }).catch(caught)
    expect(error).toMatchObject({ code: 'WORKER_START' })
    expect((error as Error).message).toContain('core_bg.wasm could not be loaded')
    expect((error as Error).message).toContain('404, or a page of HTML')
  })

  it('says after 10 s which relay does not answer', { timeout: 20_000 }, async () => {
    const error = await spawn({ relay: DEAD_RELAY }).catch(caught)
    expect(error).toMatchObject({ code: 'RELAY_UNREACHABLE' })
    expect((error as Error).message).toContain(DEAD_RELAY)
  })

  it('meet in a room for peers of iroh-live, too', async () => {
    const compat = 'iroh-live'
    await using one = await spawn()
    await using other = await spawn()
    const alice = await Room.open(one, RoomTicket.generate(), { compat, displayName: 'Alice' })
    const ticket = await alice.ticket()
    const presence = { mood: 'fine' }
    const bob = await Room.open(other, ticket, { compat, displayName: 'Bob', presence })
    const { peer } = await until(alice, 'peer-joined')
    expect(peer).toMatchObject({ id: other.endpointId, displayName: 'Bob', presence })
    await until(bob, 'peer-joined')
    await alice.chat.send('hello')
    expect((await until(bob, 'chat-message')).text).toBe('hello')
    const broadcast = new Broadcast()
    broadcast.track('t').write(new Uint8Array([1]))
    await alice.publish('camera', broadcast)
    expect((await until(bob, 'broadcast-subscribed')).name).toBe('camera')
    // It is in the endpoint's own scope, where there is one such room.
    expect(await one.moq.publishedBroadcasts()).toEqual(['camera', 'chat'])
    expect(await Room.open(one, RoomTicket.generate(), { compat }).catch(caught)).toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
    await alice.leave()
    expect(await until(bob, 'peer-left')).toMatchObject({ reason: 'left' })
    expect(await one.moq.publishedBroadcasts()).toEqual([])
    const again = await Room.open(one, await bob.ticket(), { compat })
    expect((await until(again, 'peer-joined')).peer.displayName).toBe('Bob')
  })
}

export function meetingSuite(meeting: Meeting): void {
  const open: Live[] = []

  async function spawn(): Promise<Live> {
    const live = await meeting.spawn()
    open.push(live)
    return live
  }

  async function two(options: RoomOptions = {}): Promise<[Room, Room]> {
    const [one, other] = await Promise.all([spawn(), spawn()])
    const alice = await Room.open(one, RoomTicket.generate(), { displayName: 'Alice' })
    const bob = await Room.open(other, await alice.ticket(), { displayName: 'Bob', ...options })
    const [joined, seen] = await Promise.all([
      until(alice, 'peer-joined'),
      until(bob, 'peer-joined'),
    ])
    expect(joined.peer).toMatchObject({ id: other.endpointId, displayName: 'Bob' })
    expect(seen.peer).toMatchObject({ id: one.endpointId, displayName: 'Alice' })
    return [alice, bob]
  }

  afterEach(async () => {
    await Promise.all(open.splice(0).map((live) => live.close()))
  })

  it('refuses what is too large, and takes what just fits', async () => {
    const live = await spawn()
    const large = 'x'.repeat(1 << 20)
    const named = await Room.open(live, RoomTicket.generate(), { displayName: large }).catch(caught)
    expect(named).toMatchObject({ code: 'TOO_LARGE', details: { limit: 64 } })
    const room = await Room.open(live, RoomTicket.generate(), { displayName: 'x'.repeat(64) })
    for (const [limit, call] of [
      [64, room.setDisplayName(large)],
      [2_048, room.setPresence(large)],
      [4_096, room.chat.send('x'.repeat(4_097))],
      [4_096, room.chat.send(large)],
      [65_536, room.channel('c').send(large)],
      [48, room.channel(large).send(1)],
    ] as const) {
      expect(await call.catch(caught)).toMatchObject({ code: 'TOO_LARGE', details: { limit } })
    }
    expect(room.self.displayName).toBe('x'.repeat(64))
    expect((await room.chat.send('x'.repeat(4_096))).text).toHaveLength(4_096)
    expect(await room.chat.send('').catch(caught)).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect((await room.chat.history()).map(({ text }) => text.length)).toEqual([4_096])
  })

  describe('two endpoints', () => {
    it('see each other come, change and leave', async () => {
      const [alice, bob] = await two()
      expect(alice.id).toBe(bob.id)
      expect([...alice.peers.keys()]).toEqual([bob.self.id])
      await bob.setDisplayName('Robert')
      await bob.setPresence({ typing: true })
      await expect
        .poll(() => alice.peers.get(bob.self.id))
        .toMatchObject({ displayName: 'Robert', presence: { typing: true } })
      await bob.leave()
      const left = await until(alice, 'peer-left')
      expect(left).toMatchObject({ peer: { id: bob.self.id }, reason: 'left' })
      expect(alice.peers.size).toBe(0)
    })

    it('chat, each message once', async () => {
      const [alice, bob] = await two()
      await alice.chat.send('hello')
      expect(await until(bob, 'chat-message')).toMatchObject({
        text: 'hello',
        peer: { id: alice.self.id },
      })
      await bob.chat.send('hi')
      expect((await until(alice, 'chat-message')).text).toBe('hi')
      const texts = async (room: Room): Promise<string[]> =>
        (await room.chat.history()).map(({ text }) => text)
      expect(await texts(alice)).toEqual(['hello', 'hi'])
      expect(await texts(bob)).toEqual(['hello', 'hi'])
    })

    it("read each other's broadcasts", async () => {
      const [alice, bob] = await two()
      const broadcast = new Broadcast()
      const writer = broadcast.track('data', { maxAgeMs: 10_000 })
      await alice.publish('files', broadcast)
      const { broadcast: remote, session } = await until(bob, 'broadcast-subscribed')
      expect(remote.name).toBe('files')
      const frames = remote.track('data', { maxAgeMs: 10_000 }).frames()
      await writer.used()
      const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => i % 251)
      writer.write(bytes, { timestamp: 1_000 })
      const frame = (await frames.next()).value
      expect(frame?.data).toEqual(bytes)
      expect(frame?.index).toBe(0)
      expect((await session.stats()).bytesReceived).toBeGreaterThan(100_000)
      await frames.return()
      await broadcast.close()
      expect(await until(bob, 'broadcast-ended')).toMatchObject({ name: 'files' })
    })

    it('are subscribed to by hand, with the halves of a room apart', async () => {
      const [alice, bob] = await two({ autoSubscribe: false })
      const [events, handle] = bob.split()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await alice.publish('news', broadcast)
      for await (const event of events) {
        expect(event.type).not.toBe('broadcast-subscribed')
        if (event.type === 'broadcast-announced' && event.names.includes('news')) break
      }
      const frames = (await handle.subscribe(alice.self, 'news')).track('t').frames()
      await writer.used()
      writer.write(new Uint8Array([1]))
      expect((await frames.next()).value?.data).toEqual(new Uint8Array([1]))
      await handle.chat.send('from the handle')
      expect((await until(alice, 'chat-message')).text).toBe('from the handle')
      await handle.leave()
      while (await events.recv());
      expect(await bob.closed).toEqual({ reason: 'left' })
    })

    it('publish a camera, and a screen while it is shared', async () => {
      const [alice, bob] = await two()
      const synthetic = (): (() => Promise<Broadcast>) => async () => {
        const broadcast = new Broadcast()
        broadcast.track('video').write(new Uint8Array([1, 2, 3]))
        return broadcast
      }
      await using publisher = new RoomPublisher(alice, {
        camera: synthetic(),
        screen: synthetic(),
      })
      const camera = await until(bob, 'broadcast-subscribed')
      expect(camera.name).toBe('camera')
      const frame = (await camera.broadcast.track('video').frames().next()).value
      expect(frame?.data).toEqual(new Uint8Array([1, 2, 3]))
      await publisher.setState({ screen: true })
      expect((await until(bob, 'broadcast-subscribed')).name).toBe('screen')
      await publisher.setState({ screen: false })
      expect((await until(bob, 'broadcast-ended')).name).toBe('screen')
      expect(alice.self.broadcasts.filter((name) => name !== 'chat')).toEqual(['camera'])
    })

    it('send over a channel', async () => {
      const [alice, bob] = await two()
      const cursors = bob.channel<{ x: number }>('cursors').messages()
      const stop = new AbortController()
      const sending = (async () => {
        // A channel repeats nothing for those who come later: send until it is heard.
        for (let x = 0; !stop.signal.aborted; x += 1) {
          await alice.channel<{ x: number }>('cursors').send({ x })
          await new Promise((resolve) => setTimeout(resolve, 20))
        }
      })()
      const first = (await cursors.next()).value
      stop.abort()
      await sending
      expect(first).toMatchObject({ from: alice.self.id, value: { x: expect.any(Number) } })
    })

    it('tell how they are connected', async () => {
      const [alice, bob] = await two()
      expect((await alice.stats()).peers).toBe(1)
      expect((await alice.live.stats()).rooms).toBe(1)
      expect((await alice.diagnose()).map(({ peer }) => peer)).toEqual([bob.self.id])
      expect((await alice.live.addr()).relayUrl).toBe(new URL(meeting.relay()).href)
    })

    it("use each other's own scope", async () => {
      const [one, other] = await Promise.all([spawn(), spawn()])
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await one.moq.publish('own', broadcast)
      writer.write(new Uint8Array([1, 2, 3]))
      const session = await other.moq.connect(await one.addr())
      const remote = await session.subscribe('own')
      for await (const group of remote.track('t')) {
        expect((await group.next())?.data).toEqual(new Uint8Array([1, 2, 3]))
        break
      }
      await session.close(7, 'done')
      expect(await session.stats().catch((error: unknown) => error)).toMatchObject({
        code: 'SESSION_CLOSED',
      })
    })
  })
}
