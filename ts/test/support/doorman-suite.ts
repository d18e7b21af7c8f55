/**
 * Rooms with a doorman with the real core, over a relay: who comes in, what all agree on, and what
 * is left when somebody goes. The same tests run in Node and in Chromium.
 */
import { afterEach, describe, expect, it } from 'vitest'

import {
  Live,
  type LiveOptions,
  Room,
  type RoomEvent,
  RoomsError,
  type StateRoom,
  type StateRoomOptions,
} from '../../src/index.js'
import { runtime } from '#runtime'

interface Game {
  readonly board: readonly number[]
  readonly turn?: string
}

const caught = (error: unknown): unknown => error
/** Elections, and a door that has to be found anew. */
const LONG = { timeout: 45_000, interval: 50 }

export function doormanSuite(worker: () => URL, relay: () => string): void {
  const open: { close(): Promise<void> }[] = []

  function endpoint(options: LiveOptions = {}): LiveOptions {
    return { worker: worker(), relay: relay(), identity: 'memory', ...options }
  }

  function create<C = Partial<Game>>(
    name: string,
    options: StateRoomOptions<Game, C> = {},
  ): StateRoom<Game, C> {
    const room = Room.create<Game, C>(name, { board: [] }, { live: endpoint(), ...options })
    open.push(room)
    return room
  }

  function join<C = Partial<Game>>(
    name: string,
    where: string,
    options: StateRoomOptions<Game, C> = {},
  ): StateRoom<Game, C> {
    const room = Room.join<Game, C>(name, where, { live: endpoint(), ...options })
    open.push(room)
    return room
  }

  /** Who is needed for the room to outlive one of two at any moment. */
  async function both<C>(...rooms: StateRoom<Game, C>[]): Promise<void> {
    for (const room of rooms) {
      await expect.poll(() => room.consensus.voters.length, LONG).toBe(rooms.length)
    }
  }

  afterEach(async () => {
    await Promise.all(open.splice(0).map((one) => one.close()))
  })

  it('is found by its id alone, and both change what both see', async () => {
    const alice = await create('alice').ready
    expect(alice.id).toMatch(/^[ybndrfg8ejkmcpqxot1uwisza345h769]{52}$/)
    expect(alice.consensus).toMatchObject({ status: 'active', isDoorman: true })
    await alice.update({ board: [1] })
    const bob = await join('bob', alice.id).ready
    expect(bob.id).toBe(alice.id)
    expect(bob.state).toEqual({ board: [1] })
    const heard: unknown[] = []
    alice.on('state-update', (change, state, { author }) => heard.push([change, state, author]))
    const { index } = await bob.update({ turn: 'alice' }, { ifIndex: bob.consensus.index })
    expect(bob.state).toEqual({ board: [1], turn: 'alice' })
    await expect
      .poll(() => heard)
      .toEqual([[{ turn: 'alice' }, { board: [1], turn: 'alice' }, bob.self.id]])
    const stale = await alice.update({ board: [] }, { ifIndex: index - 1 }).catch(caught)
    expect(stale).toMatchObject({ code: 'UPDATE_REJECTED' })
    const patch = [{ op: 'add', path: '/board/-', value: 2 }] as const
    await alice.update(patch, { format: 'json-patch' })
    await expect.poll(() => bob.state).toEqual({ board: [1, 2], turn: 'alice' })
    expect(alice.participants.map(({ participantId }) => participantId).toSorted()).toEqual([
      'alice',
      'bob',
    ])
    expect(bob.consensus).toMatchObject({ doorman: alice.self.id, isDoorman: false })
  })

  it(
    'is a room like any other: presence, chat, channels, its ticket',
    { timeout: 60_000 },
    async () => {
      const alice = await create('alice', { displayName: 'Alice' }).ready
      const ticket = await alice.ticket()
      expect(ticket.roomId).toMatch(/^[0-9a-f]{64}$/)
      const gossip = await Room.open(alice.live, ticket).catch(caught)
      expect((gossip as Error).message).toContain('Room.join')
      const bob = await join('bob', `${ticket.toURL('https://example.org/game')}`).ready
      await expect
        .poll(() => alice.peers.get(bob.self.id), LONG)
        .toMatchObject({ participantId: 'bob' })
      await expect
        .poll(() => bob.peers.get(alice.self.id), LONG)
        .toMatchObject({ participantId: 'alice', displayName: 'Alice' })
      await bob.chat.send('hello')
      await until(alice, ({ type }) => type === 'chat-message')
      const heard = alice.channel<number>('c').messages()
      await expect
        .poll(async () => {
          await bob.channel<number>('c').send(7)
          return heard.tryNext()?.value
        }, LONG)
        .toBe(7)
    },
  )

  it('lets in whom the application lets in', { timeout: 60_000 }, async () => {
    const admit: StateRoomOptions<Game>['admit'] = async ({ participantId, endpointId, proof }) => {
      expect(endpointId).toMatch(/^[0-9a-f]{64}$/)
      if (proof?.[0] === 42) return true
      return participantId === 'eve' ? 'we know you' : false
    }
    const alice = await create('alice', { admit }).ready
    const eve = await join('eve', alice.id, { admit }).ready.catch(caught)
    expect(RoomsError.is(eve, 'REFUSED') && eve.details.reason).toContain('we know you')
    const mallory = await join('mallory', alice.id, { admit }).ready.catch(caught)
    expect(mallory).toMatchObject({ code: 'REFUSED' })
    const bob = await join('bob', alice.id, { admit, proof: new Uint8Array([42]) }).ready
    const taken = join('bob', alice.id, { admit, proof: new Uint8Array([42]) })
    expect(await taken.ready.catch(caught)).toMatchObject({ code: 'PARTICIPANT_ID_TAKEN' })
    await bob.update({ turn: 'bob' })
    await alice.lock()
    const late = await join('late', alice.id, { admit, proof: new Uint8Array([42]) }).ready.catch(
      caught,
    )
    expect(late).toMatchObject({ code: 'REFUSED' })
  })

  it('says that a room is there, or is not', { timeout: 60_000 }, async () => {
    const name = `room ${crypto.randomUUID()}`
    const nobody = join('bob', name, { joinTimeoutMs: 2_000 }).ready.catch(caught)
    expect(await nobody).toMatchObject({ code: 'ROOM_NOT_FOUND' })
    const first = Room.joinOrCreate<Game>('alice', name, { board: [] }, { live: endpoint() })
    open.push(first)
    await first.ready
    const second = Room.create<Game>('carol', name, { board: [] }, { live: endpoint() })
    open.push(second)
    expect(await second.ready.catch(caught)).toMatchObject({ code: 'ROOM_EXISTS' })
    const bob = Room.joinOrCreate<Game>('bob', name, { board: [9] }, { live: endpoint() })
    open.push(bob)
    expect((await bob.ready).state).toEqual({ board: [] })
    // No point of the curve, which the end of a mistyped id makes of every other one.
    const mistyped = await join('bob', `02${'00'.repeat(31)}`).ready.catch(caught)
    expect(mistyped).toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  it('is there when the doorman has left, under the same id', { timeout: 60_000 }, async () => {
    const alice = await create('alice').ready
    const bob = await join('bob', alice.id).ready
    await both(alice, bob)
    const changed = new Promise<unknown>((resolve) => bob.once('doorman-changed', resolve))
    await alice.update({ board: [1] })
    await alice.leave()
    expect(await changed).toMatchObject({ type: 'doorman-changed' })
    await expect.poll(() => bob.consensus.isDoorman, LONG).toBe(true)
    await bob.update({ turn: 'bob' })
    const carol = await join('carol', alice.id, { joinTimeoutMs: 20_000 }).ready
    expect(carol.state).toEqual({ board: [1], turn: 'bob' })
    expect(carol.participants.map(({ participantId }) => participantId)).not.toContain('alice')
  })

  it('gets another doorman before a tab is slowed down', { timeout: 60_000 }, async () => {
    const alice = await create('alice').ready
    const bob = await join('bob', alice.id).ready
    await both(alice, bob)
    alice.live.link.lifecycle('hidden')
    await expect.poll(() => bob.consensus.isDoorman, LONG).toBe(true)
    await expect.poll(() => alice.consensus.isDoorman, LONG).toBe(false)
    await alice.update({ turn: 'alice' })
    await expect.poll(() => bob.state?.turn).toBe('alice')
  })

  it('takes a participant back under its key', { timeout: 60_000 }, async () => {
    const identity = crypto.getRandomValues(new Uint8Array(32))
    const alice = await create('alice').ready
    const before = await join('bob', alice.id, { live: endpoint({ identity }) }).ready
    await before.update({ turn: 'bob' })
    const { id } = before.self
    await before.live.close()
    const after = await join('bob', alice.id, { live: endpoint({ identity }) }).ready
    expect(after.self.id).toBe(id)
    expect(after.state).toEqual({ board: [], turn: 'bob' })
    await after.update({ turn: 'alice' })
    await expect.poll(() => alice.state?.turn).toBe('alice')
    await expect
      .poll(() => alice.participants.filter((one) => one.participantId === 'bob').length)
      .toBe(1)
  })

  it('runs the reducer and the rules of the application at everybody', async () => {
    type Move = { readonly place: number }
    const rules: StateRoomOptions<Game, Move> = {
      reducer: (state, { place }) => ({ ...state, board: [...state.board, place] }),
      validate: ({ place }, { board }) => !board.includes(place) || 'that place is taken',
    }
    const alice = await create('alice', rules).ready
    const bob = await join('bob', alice.id, rules).ready
    await alice.update({ place: 1 })
    await bob.update({ place: 2 })
    const taken = await bob.update({ place: 1 }).catch(caught)
    expect(RoomsError.is(taken, 'UPDATE_REJECTED') && taken.details.reason).toContain('taken')
    for (const room of [alice, bob]) {
      await expect.poll(() => room.state).toEqual({ board: [1, 2] })
    }
  })

  it('shows somebody out, from everything', { timeout: 60_000 }, async () => {
    const alice = await create('alice').ready
    const bob = await join('bob', alice.id).ready
    await expect.poll(() => alice.peers.has(bob.self.id), LONG).toBe(true)
    expect(await bob.kick('alice').catch(caught)).toMatchObject({
      code: expect.stringMatching(/REFUSED|UPDATE_REJECTED/) as string,
    })
    await alice.kick('bob')
    expect(await bob.closed).toMatchObject({ reason: 'kicked' })
    await expect.poll(() => alice.peers.has(bob.self.id), LONG).toBe(false)
    const again = join('bob', alice.id, { live: endpoint(), joinTimeoutMs: 3_000 })
    await again.ready.catch(caught)
  })

  it('is kept on this machine, and begins the next room', { timeout: 60_000 }, async () => {
    const alice = await create('alice', { persist: 'local' }).ready
    const where = runtime.store.locate(alice.id, undefined)
    await alice.update({ board: [1, 2] })
    await alice.leave()
    const kept = await runtime.store.read(where)
    expect(kept?.byteLength).toBeGreaterThan(0)
    const next = await create('alice', { restore: alice.id }).ready
    expect(next.id).not.toBe(alice.id)
    expect(next.state).toEqual({ board: [1, 2] })
    await runtime.store.write(where, (kept ?? new Uint8Array()).slice(0, -3))
    const damaged = await create('alice', { restore: alice.id }).ready.catch(caught)
    expect(damaged).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect((damaged as Error).message).toContain('put aside')
    expect(await runtime.store.read(where)).toBeUndefined()
  })

  describe('a Live that is given', () => {
    it('may hold several rooms', async () => {
      const live = await Live.spawn(endpoint())
      open.push(live)
      const one = await create('alice', { live }).ready
      const other = await create('alice', { live }).ready
      await Promise.all([one.update({ turn: 'one' }), other.update({ turn: 'other' })])
      expect([one.state?.turn, other.state?.turn]).toEqual(['one', 'other'])
      expect(live.rooms.size).toBe(2)
      await one.leave()
      await other.update({ turn: 'still' })
      await other.leave()
      expect(live.rooms.size).toBe(0)
      await expect.poll(async () => (await live.stats()).objects).toBe(1)
    })
  })
}

/** Reads the room's cursor until an event is as asked. */
async function until(room: Room, wanted: (event: RoomEvent) => boolean): Promise<void> {
  for (;;) {
    const event = await room.recv()
    if (!event) throw new Error('the room ended')
    if (wanted(event)) return
  }
}
