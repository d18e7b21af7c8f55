/**
 * Rooms opened, used and left again and again: whatever was held is let go of. The short form is a
 * test, `npm run soak` the long one; both are seeded.
 */
import { expect } from 'vitest'

import { Broadcast, type Live, Room, RoomTicket, RoomsError } from '../../src/index.js'
import { random } from './random.js'

/** How long and how much. */
export interface SoakOptions {
  /** Rooms opened and left, one after the other. */
  readonly cycles: number
  /** Rooms open at the same time. */
  readonly rooms: number
  /** How long they are used, in s. */
  readonly seconds: number
  /** Decides about every action. */
  readonly seed: number
  /** Whether to print what was seen. */
  readonly verbose: boolean
}

/** What memory may grow by once everything has been used: WebAssembly's is never given back. */
const GROWTH_BYTES = 4 << 20

/** What a `Live` holds, on both sides of the boundary. */
async function held(live: Live): Promise<object> {
  const { rooms, sessions, objects, ports, calls } = await live.stats()
  return { rooms, sessions, objects, ports, calls, here: live.link.open }
}

/** What each holds that is not used: the stream of its status alone. */
async function rest(lives: readonly Live[]): Promise<object[]> {
  for (const live of lives) {
    await expect.poll(() => held(live)).toMatchObject({ objects: 1, ports: 1, calls: 1 })
  }
  return Promise.all(lives.map(held))
}

async function memory(lives: readonly Live[]): Promise<number> {
  const stats = await Promise.all(lives.map((live) => live.stats()))
  return stats.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0)
}

async function returnTo(lives: readonly Live[], start: readonly object[]): Promise<void> {
  await expect.poll(() => Promise.all(lives.map(held)), { timeout: 10_000 }).toEqual(start)
}

function say(options: SoakOptions, text: string): void {
  if (options.verbose) console.log(text)
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Both in one room; resolves when they see each other. */
async function meet(one: Live, other: Live, signal: AbortSignal): Promise<[Room, Room]> {
  const alice = await Room.open(one, RoomTicket.generate(), { displayName: 'Alice', signal })
  const bob = await Room.open(other, await alice.ticket(), { displayName: 'Bob', signal })
  for (const room of [alice, bob]) {
    while (room.peers.size === 0) {
      signal.throwIfAborted()
      await pause(10)
    }
  }
  return [alice, bob]
}

/**
 * One thing that applications do; most of them leave something open, for 20 s or until the room's
 * end. Where the machine is so busy that a session is taken for silent, it is made anew, and that is fine, too.
 */
async function act(alice: Room, bob: Room, chance: () => number): Promise<void> {
  const what = Math.floor(chance() * 7)
  try {
    await use(what, alice, bob, chance)
  } catch (error) {
    if (!RoomsError.is(error, 'SESSION_CLOSED')) throw new Error(`act ${what}`, { cause: error })
  }
}

async function use(what: number, alice: Room, bob: Room, chance: () => number): Promise<void> {
  const signal = AbortSignal.timeout(20_000)
  switch (what) {
    case 0:
      await alice.chat.send('hello')
      await bob.chat.history()
      return
    case 1: {
      const heard = bob.channel<number>('c').messages({ signal }).next()
      // A reader hears what is sent from when its Worker knows of it: the first may be too early.
      do await alice.channel<number>('c').send(chance())
      while ((await Promise.race([heard, pause(1_000)])) === undefined)
      return
    }
    case 2: {
      await using broadcast = new Broadcast()
      const name = `b${Math.floor(chance() * 1e9)}`
      const track = broadcast.track('t', { maxAgeMs: 10_000 })
      await alice.publish(name, broadcast)
      const remote = await bob.subscribe(alice.self, name, { signal })
      const frames = remote.track('t', { maxAgeMs: 10_000, start: 0, signal }).frames()
      track.write(new Uint8Array(60_000))
      const group = track.group()
      group.write(new Uint8Array(10))
      await frames.next()
      if (chance() < 0.5) await frames.return()
      await alice.unpublish(name)
      return
    }
    case 3: {
      const stop = new AbortController()
      const never = bob.subscribe(alice.self, 'never', { signal: stop.signal })
      const unread = bob.subscribe(alice.self, 'neither', { signal })
      for (const promise of [never, unread]) promise.catch(() => undefined)
      stop.abort()
      return
    }
    case 4:
      await alice.setPresence({ at: chance() })
      await alice.setDisplayName('A')
      return
    case 5: {
      const events = bob.events({ signal })
      bob.chat.messages()
      if (chance() < 0.5) await events.next()
      return
    }
    default:
      await alice.diagnose()
      await bob.stats()
  }
}

/** Rooms opened and left, one after the other, on the same two endpoints. */
export async function soakCycles(spawn: () => Promise<Live>, options: SoakOptions): Promise<void> {
  const chance = random(options.seed)
  const lives = await Promise.all([spawn(), spawn()])
  const [one, other] = lives
  const start = await rest(lives)
  // Connections that gossip has let go of are closed after 30 to 40 s: by then there are as many as
  // there ever will be.
  const settled = Math.ceil(options.cycles / 2)
  let after = 0
  for (let cycle = 1; cycle <= options.cycles; cycle += 1) {
    const [alice, bob] = await meet(one, other, AbortSignal.timeout(30_000))
    for (let i = 0; i < 5; i += 1) await act(alice, bob, chance)
    if (chance() < 0.2) {
      const signal = AbortSignal.timeout(Math.floor(chance() * 20))
      const given = Room.open(other, RoomTicket.generate(), { signal })
      await given.then((room) => room.leave()).catch(() => undefined)
    }
    const leaving = [alice.leave(), bob.leave()]
    if (chance() < 0.5) await leaving[0]
    await Promise.all(leaving)
    if (cycle === settled) after = await memory(lives)
    if (cycle % 20 === 0) say(options, `${cycle} rooms: ${mib(await memory(lives))}`)
  }
  await returnTo(lives, start)
  const growth = (await memory(lives)) - after
  say(options, `seed ${options.seed}: ${mib(growth)} more since room ${settled}`)
  expect(growth).toBeLessThanOrEqual(GROWTH_BYTES)
  await Promise.all(lives.map((live) => live.close()))
}

/** Many rooms at the same time, in use. */
export async function soakRooms(spawn: () => Promise<Live>, options: SoakOptions): Promise<void> {
  const chance = random(options.seed)
  const lives = await Promise.all([spawn(), spawn()])
  const [one, other] = lives
  const start = await rest(lives)
  const rooms: [Room, Room][] = []
  for (let i = 0; i < options.rooms; i += 1) {
    rooms.push(await meet(one, other, AbortSignal.timeout(30_000)))
  }
  const began = performance.now()
  const passed = (): number => (performance.now() - began) / 1_000 / options.seconds
  let after: number | undefined
  let [acts, tenths] = [0, 1]
  while (passed() < 1) {
    const [alice, bob] = rooms[Math.floor(chance() * rooms.length)] as [Room, Room]
    await act(alice, bob, chance)
    acts += 1
    await pause(options.seconds > 60 ? 50 : 0)
    if (passed() >= 1 / 3) after ??= await memory(lives)
    if (passed() * 10 > tenths) {
      const open = lives.reduce((sum, live) => sum + live.link.open.ports, 0)
      say(options, `${tenths} of 10: ${mib(await memory(lives))}, ${open} ports, ${acts} acts`)
      tenths += 1
    }
  }
  const present = (): boolean => rooms.flat().every((room) => room.peers.size === 1)
  await expect.poll(present, { timeout: 60_000 }).toBe(true)
  const growth = (await memory(lives)) - (after ?? 0)
  say(options, `${acts} acts in ${rooms.length} rooms: ${mib(growth)} more in the last two thirds`)
  await Promise.all(rooms.flat().map((room) => room.leave()))
  await returnTo(lives, start)
  // Chat, kept for five minutes, and what lags behind it are part of this.
  expect(growth).toBeLessThanOrEqual(2 * GROWTH_BYTES)
  await Promise.all(lives.map((live) => live.close()))
}
