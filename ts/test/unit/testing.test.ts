/** The network in memory: it behaves as the real one does, on a clock of its own. */
import { afterEach, describe, expect, it, vi } from 'vitest'

import { Broadcast, Live, Room, type RoomEvent, RoomTicket } from '../../src/index.js'
import { TestNetwork, type TestNetworkOptions } from '../../testing/index.js'
import { memorySuite } from '../support/memory-suite.js'

const caught = (error: unknown): unknown => error

describe('what two endpoints do with the real core, they do here', () => memorySuite())

describe('a network in memory', () => {
  const open: TestNetwork[] = []
  afterEach(async () => {
    vi.useRealTimers()
    await Promise.all(open.splice(0).map((net) => net.close()))
  })

  function network(options?: TestNetworkOptions): TestNetwork {
    const net = new TestNetwork(options)
    open.push(net)
    return net
  }

  /** A room of so many, each with a log of what it heard, and who sent what. */
  async function room(
    net: TestNetwork,
    names: readonly string[],
  ): Promise<{ rooms: Room[]; heard: string[][] }> {
    const rooms: Room[] = []
    const heard: string[][] = []
    for (const displayName of names) {
      const live = await net.spawn()
      const ticket = rooms[0] ? await rooms[0].ticket() : RoomTicket.generate()
      const joined = await Room.open(live, ticket, { displayName })
      const log: string[] = []
      void (async () => {
        for await (const event of joined.events()) log.push(line(event))
      })().catch(() => undefined)
      rooms.push(joined)
      heard.push(log)
    }
    await net.advance(1_000)
    return { rooms, heard }
  }

  const line = (event: RoomEvent): string =>
    [
      event.type,
      'peer' in event ? event.peer.displayName : '',
      'reason' in event ? event.reason : '',
      'text' in event ? event.text : '',
      'name' in event ? event.name : '',
      'missed' in event ? event.missed : '',
    ]
      .filter((part) => part !== '' && part !== undefined)
      .join(' ')

  it('has the public classes, and needs no time when nothing takes any', async () => {
    const net = network()
    const live = await net.spawn()
    expect(live).toBeInstanceOf(Live)
    expect(live.status).toBe('connected')
    const alice = await Room.open(live, RoomTicket.generate(), { displayName: 'Alice' })
    const bob = await Room.open(await net.spawn(), await alice.ticket(), { displayName: 'Bob' })
    expect(await bob.recv()).toMatchObject({ type: 'peer-joined', peer: { displayName: 'Alice' } })
    await bob.chat.send('hello')
    await alice.recv()
    expect(await alice.recv()).toMatchObject({ type: 'chat-message', text: 'hello' })
    expect(net.now).toBe(0)
  })

  it('takes the time it is told to, and no less', async () => {
    const net = network({ delayMs: 100 })
    const { rooms, heard } = await room(net, ['Alice', 'Bob'])
    await rooms[0]!.chat.send('hello')
    await net.advance(99)
    expect(heard[1]).not.toContain('chat-message Alice hello')
    await net.advance(1)
    expect(heard[1]).toContain('chat-message Alice hello')
    expect((await rooms[1]!.diagnose())[0]).toMatchObject({ rttMs: 200, path: 'relay' })
  })

  it('introduces everybody to everybody, whole and once', async () => {
    const net = network({ delayMs: [10, 60], loss: 0.2 })
    const { rooms, heard } = await room(net, ['a', 'b', 'c', 'd'])
    await net.advance(2_000)
    for (const here of rooms) expect(here.peers.size).toBe(3)
    for (const log of heard) {
      const joined = log.filter((text) => text.startsWith('peer-joined'))
      expect(new Set(joined).size).toBe(3)
      expect(joined.length).toBe(3)
    }
  })

  it('is the same each time for one seed, and not for another', async () => {
    const run = async (seed: number): Promise<unknown> => {
      const net = network({ delayMs: [5, 80], loss: 0.3, seed })
      const { rooms, heard } = await room(net, ['a', 'b', 'c'])
      const channel = rooms[0]!.channel<number>('n')
      const got: [number, unknown][] = []
      void (async () => {
        for await (const { value } of rooms[1]!.channel('n')) got.push([net.now, value])
      })()
      for (let i = 0; i < 20; i += 1) await channel.send(i, { datagram: true })
      await Promise.all(rooms.map((here) => here.chat.send(`from ${here.self.displayName}`)))
      await net.advance(2_000)
      await rooms[2]!.leave()
      await net.advance(2_000)
      expect(got.length).toBeLessThan(20)
      return [heard, got, rooms.map(({ self }) => self)]
    }
    const first = await run(7)
    expect(await run(7)).toEqual(first)
    expect(await run(8)).not.toEqual(first)
  })

  it('loses and delays, but what is reliable comes once and in order', async () => {
    const net = network({ delayMs: [0, 200], loss: 0.5 })
    const { rooms, heard } = await room(net, ['Alice', 'Bob'])
    await net.advance(5_000)
    const texts = Array.from({ length: 50 }, (_, i) => `chat-message Alice ${i}`)
    for (let i = 0; i < 50; i += 1) await rooms[0]!.chat.send(String(i))
    await net.advance(60_000)
    expect(heard[1]!.filter((text) => text.startsWith('chat'))).toEqual(texts)
  })

  it('gives history to those who come late, while its writers are there', async () => {
    const net = network()
    const { rooms } = await room(net, ['Alice', 'Bob'])
    await rooms[0]!.chat.send('old')
    await net.advance(301_000)
    await rooms[1]!.chat.send('of Bob')
    await rooms[0]!.chat.send('new')
    await rooms[1]!.leave()
    const carol = await Room.open(await net.spawn(), await rooms[0]!.ticket())
    await net.advance(0)
    expect((await carol.chat.history()).map(({ text }) => text)).toEqual(['new'])
  })

  it('makes those leave who are silent for 9 s, and only those', async () => {
    const net = network({ delayMs: 20 })
    const { rooms, heard } = await room(net, ['Alice', 'Bob', 'Carol'])
    const bob = rooms[1]!.live
    net.kill(bob)
    expect(await bob.closed).toMatchObject({ reason: 'crashed', error: { code: 'WORKER_CRASHED' } })
    await net.advance(8_900)
    expect(rooms[0]!.peers.size).toBe(2)
    await net.advance(1_000)
    expect(heard[0]!.at(-1)).toBe('peer-left Bob timeout')
    expect([...rooms[0]!.peers.values()].map((peer) => peer.displayName)).toEqual(['Carol'])
  })

  it('comes together again after a partition, with what was said in it', async () => {
    const net = network({ delayMs: 20 })
    const { rooms, heard } = await room(net, ['Alice', 'Bob', 'Carol'])
    const [alice, bob, carol] = rooms as [Room, Room, Room]
    net.partition([alice.live, carol.live], [bob.live])
    await net.advance(5_000)
    await bob.chat.send('nobody hears')
    await net.advance(5_000)
    expect(heard[0]!.filter((text) => text.includes('Bob'))).toEqual([
      'peer-joined Bob',
      'peer-left Bob timeout',
    ])
    expect([alice.peers.size, bob.peers.size, carol.peers.size]).toEqual([1, 0, 1])
    await net.advance(50_000)
    net.heal()
    await net.advance(5_000)
    expect([alice.peers.size, bob.peers.size, carol.peers.size]).toEqual([2, 2, 2])
    expect(heard[0]!.slice(-2)).toEqual(['peer-joined Bob', 'chat-message Bob nobody hears'])
  })

  it('makes nobody leave for one who was offline', async () => {
    const net = network()
    const { rooms, heard } = await room(net, ['Alice', 'Bob'])
    const [alice, bob] = rooms as [Room, Room]
    net.offline(alice.live)
    await net.advance(0)
    expect([alice.status, alice.live.status]).toEqual(['reconnecting', 'reconnecting'])
    await bob.chat.send('are you there?')
    await net.advance(8_000)
    net.online(alice.live)
    await net.advance(1_000)
    expect(alice.status).toBe('connected')
    expect(heard[0]!.slice(1)).toEqual(['status', 'status', 'chat-message Bob are you there?'])
    expect(heard[1]).toEqual(['peer-joined Alice'])

    net.offline(alice.live)
    await net.advance(45_000)
    expect(heard[1]!.at(-1)).toBe('peer-left Alice timeout')
    expect(alice.peers.size).toBe(1)
    net.online(alice.live)
    await net.advance(4_000)
    expect(heard[1]!.at(-1)).toBe('peer-joined Alice')
    expect(heard[0]!.filter((text) => text.startsWith('peer'))).toEqual(['peer-joined Bob'])
  })

  it('tells of broadcasts as they come, are replaced and go', async () => {
    const net = network()
    const { rooms, heard } = await room(net, ['Alice', 'Bob'])
    const [alice, bob] = rooms as [Room, Room]
    const [one, two] = [new Broadcast(), new Broadcast()]
    await bob.publish('news', one)
    await bob.publish('news', two)
    await net.advance(0)
    expect(alice.peers.get(bob.self.id)?.broadcasts).toEqual(['news'])
    await one.close()
    await two.close()
    await net.advance(0)
    await bob.publish('more', new Broadcast())
    await bob.leave()
    await net.advance(0)
    expect(heard[0]).toEqual([
      'peer-joined Bob',
      'peer-updated Bob',
      'broadcast-announced Bob',
      'broadcast-subscribed Bob news',
      'broadcast-ended Bob unpublished news',
      'broadcast-announced Bob',
      'broadcast-subscribed Bob news',
      'broadcast-ended Bob unpublished news',
      'peer-updated Bob',
      'peer-updated Bob',
      'broadcast-announced Bob',
      'broadcast-subscribed Bob more',
      'broadcast-ended Bob peer-left more',
      'peer-left Bob left',
    ])
    expect(await bob.publish('chat', new Broadcast()).catch(caught)).toMatchObject({
      code: 'CLOSED',
    })
  })

  it('tells a slow reader what it missed, and then what is now', async () => {
    const net = network()
    const { rooms } = await room(net, ['Alice', 'Bob'])
    const [alice, bob] = rooms as [Room, Room]
    const slow = alice.events({ buffer: 1 })
    await net.advance(0)
    for (let i = 0; i < 400; i += 1) await bob.chat.send(String(i))
    await bob.leave()
    await net.advance(0)
    const seen: RoomEvent[] = []
    for await (const event of slow) {
      seen.push(event)
      if (event.type === 'peer-left') break
    }
    expect(seen[0]).toMatchObject({ type: 'peer-joined' })
    const lagged = seen.find((event) => event.type === 'lagged')
    expect(lagged?.missed).toBeGreaterThan(100)
    expect(seen.filter(({ type }) => type === 'peer-left')).toHaveLength(1)
  })

  it('gives way to a reader of a track that keeps up, and counts what another one loses', async () => {
    const net = network({ delayMs: 5 })
    const { rooms } = await room(net, ['Alice', 'Bob'])
    const [alice, bob] = rooms as [Room, Room]
    const broadcast = new Broadcast()
    const writer = broadcast.track('t', { maxAgeMs: 1_000 })
    await alice.publish('b', broadcast)
    await net.advance(100)
    const remote = await bob.subscribe(alice.self, 'b')
    const all = remote.track('t', { start: 0, maxAgeMs: 60_000 })
    await net.advance(100)
    expect(writer.demand).toBe(true)
    for (let i = 0; i < 300; i += 1) {
      writer.write(new Uint8Array(32 << 10))
      await net.advance(20)
    }
    await writer.close()
    const groups: number[] = []
    const reading = (async () => {
      for await (const { group } of all.frames()) groups.push(group)
    })()
    await net.advance(1_000)
    await reading
    expect(groups[0]).toBe(0)
    expect(groups.length + all.missed).toBe(300)
    expect(all.missed).toBeGreaterThan(0)
    const missing = remote.track('none').frames().next().catch(caught)
    await net.advance(100)
    expect(await missing).toMatchObject({ code: 'NOT_ANNOUNCED' })
  })

  it('goes away and comes back with its page', async () => {
    const net = network()
    const { rooms, heard } = await room(net, ['Alice', 'Bob'])
    rooms[1]!.live.link.lifecycle('leaving')
    await net.advance(100)
    expect(heard[0]!.at(-1)).toBe('peer-left Bob left')
    rooms[1]!.live.link.lifecycle('resumed')
    await net.advance(100)
    expect(heard[0]!.at(-1)).toBe('peer-joined Bob')
  })

  it('is not disturbed by timers that a test has replaced', async () => {
    vi.useFakeTimers()
    const net = network({ delayMs: 20 })
    const { rooms } = await room(net, ['Alice', 'Bob'])
    expect(rooms[0]!.peers.size).toBe(1)
  })

  it('says clearly what it does not have', async () => {
    for (const options of [{ loss: 1 }, { delayMs: -1 }, { delayMs: [2, 1] as const }]) {
      expect(() => new TestNetwork(options)).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
      )
    }
    const net = network()
    const relay = await net.spawn({ relay: 'n0' } as object).catch(caught)
    expect(relay).toMatchObject({ code: 'INVALID_ARGUMENT' })
    const identity = new Uint8Array(32).fill(5)
    const live = await net.spawn({ identity })
    expect(await net.spawn({ identity }).catch(caught)).toMatchObject({ code: 'INVALID_ARGUMENT' })
    const alone = await Room.open(live, RoomTicket.generate())
    expect(await alone.setChatPublisher(new Broadcast()).catch(caught)).toMatchObject({
      code: 'UNSUPPORTED_RUNTIME',
      details: { feature: 'setChatPublisher' },
    })
    const compat = { compat: 'iroh-live' } as const
    expect(await Room.open(live, RoomTicket.generate(), compat).catch(caught)).toMatchObject({
      code: 'UNSUPPORTED_RUNTIME',
      details: { feature: 'compat' },
    })
    expect(await Room.create('alice', {}, { live }).ready.catch(caught)).toMatchObject({
      code: 'UNSUPPORTED_RUNTIME',
      details: { feature: 'rooms with a doorman' },
    })
    expect(await live.moq.connect('ab'.repeat(32)).catch(caught)).toMatchObject({
      code: 'CONNECT_FAILED',
    })
    const { endpointId } = live
    await live.close()
    expect((await net.spawn({ identity })).endpointId).toBe(endpointId)
    expect(() => net.kill(live)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    await expect(net.advance(-1)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})
