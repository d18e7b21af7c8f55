/**
 * Rooms with a doorman over the boundary, on whichever platform, against the fake core: what waits,
 * what is asked, what is kept, and how it ends. The core's part is `doorman-suite.ts`.
 */
import { afterEach, describe, expect, it, vi } from 'vitest'

import {
  type Json,
  Live,
  type RoomEvent,
  Room,
  RoomTicket,
  RoomsError,
  type StateRoom,
  type StateRoomOptions,
} from '../../src/index.js'
import { runtime } from '#runtime'
import type { Platform } from './boundary-suite.js'

interface Board {
  readonly board: readonly number[]
  readonly turn?: string
}

const caught = (error: unknown): unknown => error

export function stateSuite(platform: Platform): void {
  const open: { close(): Promise<void> }[] = []

  async function spawn(): Promise<Live> {
    const live = await Live.spawn({ worker: platform.worker() })
    open.push(live)
    return live
  }

  /** A room of its own Live, by a name that tells the fake core what to do. */
  function create<S = Board, C = Partial<S>>(
    name: string,
    options: StateRoomOptions<S, C> = {},
  ): StateRoom<S, C> {
    const live = { worker: platform.worker() }
    const initial = { board: [] } as unknown as S
    const room = Room.create<S, C>('alice', name, initial, { live, ...options })
    open.push(room)
    return room
  }

  afterEach(async () => {
    vi.restoreAllMocks()
    await Promise.all(open.splice(0).map((one) => one.close()))
  })

  describe('before it is entered', () => {
    it('is there, connecting, with its first state, and nobody in it', async () => {
      const room = create('slow')
      expect(room.status).toBe('connecting')
      expect(room.peers.size).toBe(0)
      expect(room.self).toMatchObject({ participantId: 'alice', id: '' })
      expect(room.consensus).toMatchObject({ status: 'read-only', isDoorman: false, index: 0 })
      expect(() => room.live).toThrow('await room.ready')
      expect(await room.ready).toBe(room)
      expect(room.status).toBe('connected')
      expect(room.id).toBe('slow')
      expect(room.self.id).toBe(room.live.endpointId)
      expect(room.state).toEqual({ board: [] })
    })

    it('lets commands wait, and runs them in order', async () => {
      const room = create('slow')
      const heard: unknown[] = []
      room.on('state-update', (change, state, { index, author }) =>
        heard.push([change, state, index, author === room.self.id]),
      )
      const events = room.events()
      const first = room.update({ board: [1] })
      const second = room.update({ turn: 'bob' })
      const said = room.chat.send('hello')
      expect(await first).toEqual({ index: 2 })
      expect(await second).toEqual({ index: 3 })
      expect((await said).text).toBe('hello')
      expect(room.state).toEqual({ board: [1], turn: 'bob' })
      expect(heard).toEqual([
        [{ board: [1] }, { board: [1] }, 2, true],
        [{ turn: 'bob' }, { board: [1], turn: 'bob' }, 3, true],
      ])
      const update = await events.next()
      expect(update.value).toMatchObject({ type: 'state-update', change: { board: [1] }, index: 2 })
      expect(await room.recv()).toEqual(update.value)
    })

    it('lets 64 wait and refuses the next, and an abort takes one out', async () => {
      const room = create('never')
      const waiting = Array.from({ length: 63 }, () => room.chat.send('x').catch(caught))
      const abort = new AbortController()
      const aborted = room.update({}, { signal: abort.signal }).catch(caught)
      const error = await room.chat.send('x').catch(caught)
      expect(error).toMatchObject({ code: 'TOO_LARGE', details: { limit: 64 } })
      abort.abort('enough')
      expect(await aborted).toBe('enough')
      const fits = room.chat.send('y').catch(caught)
      await room.leave()
      for (const outcome of await Promise.all([...waiting, fits])) {
        expect(outcome).toMatchObject({ code: 'CLOSED' })
      }
    })

    it("rejects what waits, and what comes later, with ready's error", async () => {
      for (const [name, code] of [
        ['taken', 'PARTICIPANT_ID_TAKEN'],
        ['refused', 'REFUSED'],
        ['exists', 'ROOM_EXISTS'],
      ] as const) {
        const room = create(name)
        const waiting = room.update({}).catch(caught)
        const next = room.recv().catch(caught)
        const listening = room.channel('c').messages().next().catch(caught)
        const error = await room.ready.catch(caught)
        expect(error).toMatchObject({ code })
        expect(await waiting).toBe(error)
        expect(await next).toBe(error)
        expect(await listening).toBe(error)
        expect(await room.kick('bob').catch(caught)).toBe(error)
        expect(await room.closed).toEqual({ reason: 'failed', error })
        expect(room.status).toBe('disconnected')
      }
      const refused = await create('refused').ready.catch(caught)
      expect(RoomsError.is(refused, 'REFUSED') && refused.details.reason).toBe('not tonight')
      const missing = Room.join('bob', 'missing', { live: await spawn() })
      expect(await missing.ready.catch(caught)).toMatchObject({ code: 'ROOM_NOT_FOUND' })
    })

    it('says what is wrong with its options, and never throws them at the caller', async () => {
      const live = await spawn()
      for (const room of [
        Room.create('', {}, { live }),
        Room.create('x'.repeat(65), {}, { live }),
        Room.create('a', {}, { live, voters: 2 as never }),
        Room.create('a', {}, { live, recovery: 'maybe' as never }),
        Room.create('a', {}, { live, approval: 'maybe' as never }),
        Room.create('a', {}, { live, app: new Uint8Array(3) }),
        Room.create('a', {}, { live, joinTimeoutMs: 0 }),
        Room.create('a', { f: 1n } as never, { live }),
        Room.create('a', {}, { live, restore: true }),
        Room.create('a', {}, { live, restore: true, persist: 'local' }),
        Room.join('a', 'room', { live, restore: true }),
      ]) {
        expect(await room.ready.catch(caught)).toMatchObject({ code: 'INVALID_ARGUMENT' })
      }
      const proof = new Uint8Array(4_097)
      const large = await Room.join('a', 'x', { live, proof }).ready.catch(caught)
      expect(large).toMatchObject({ code: 'TOO_LARGE', details: { limit: 4_096 } })
      const gossip = await Room.join('a', RoomTicket.generate(), { live }).ready.catch(caught)
      expect(gossip).toMatchObject({ code: 'INVALID_TICKET' })
      expect((gossip as Error).message).toContain('Room.open')
      expect(live.rooms.size).toBe(0)
    })

    it('ends by leave, by close of the Live, by its signal and by a crash', async () => {
      const left = create('never')
      await left.leave()
      expect(await left.ready.catch(caught)).toMatchObject({ code: 'CLOSED' })
      expect(await left.closed).toEqual({ reason: 'left' })

      const live = await spawn()
      const closed = create('never', { live })
      await new Promise((resolve) => setTimeout(resolve, 20))
      await live.close()
      expect(await closed.ready.catch(caught)).toMatchObject({ code: 'CLOSED' })

      const signal = AbortSignal.timeout(50)
      const aborted = create('never', { signal })
      expect(await aborted.ready.catch(caught)).toBe(signal.reason)
      expect(await aborted.closed).toEqual({ reason: 'failed' })

      const crashed = create('trap')
      expect(await crashed.ready.catch(caught)).toMatchObject({ code: 'WORKER_CRASHED' })
    })

    it('opens nothing when it is left at once, at any moment', async () => {
      const live = await spawn()
      const before = await live.stats()
      for (const ms of [0, 1, 2, 5, 60]) {
        const room = create('slow', { live })
        await new Promise((resolve) => setTimeout(resolve, ms))
        await room.leave()
        expect(await room.closed).toEqual({ reason: 'left' })
      }
      await expect
        .poll(async () => ({ ...(await live.stats()), rooms: 0 }))
        .toEqual({
          ...before,
          rooms: 0,
        })
      expect(live.rooms.size).toBe(0)
    })
  })

  describe('the state', () => {
    it('is frozen all the way down, and the same object until it changes', async () => {
      const room = await create('frozen').ready
      await room.update({ board: [1, 2] })
      const { state } = room
      expect(Object.isFrozen(state)).toBe(true)
      expect(Object.isFrozen(state?.board)).toBe(true)
      await room.chat.send('nothing changes')
      expect(room.state).toBe(state)
      await room.update({ turn: 'bob' })
      expect(room.state).not.toBe(state)
      expect(room.state?.board).toBe(state?.board)
    })

    it('takes JSON patches, with preconditions', async () => {
      const room = await create('patch').ready
      const patch = [{ op: 'add', path: '/board/-', value: 7 }] as const
      await room.update(patch, { format: 'json-patch' })
      expect(room.state).toEqual({ board: [7] })
      const failing = [{ op: 'test', path: '/board/0', value: 8 }] as const
      const error = await room.update(failing, { format: 'json-patch' }).catch(caught)
      expect(RoomsError.is(error, 'UPDATE_REJECTED') && error.details.reason).toContain(
        'test failed',
      )
      const stale = await room.update({ board: [] }, { ifIndex: 1 }).catch(caught)
      expect(stale).toMatchObject({ code: 'UPDATE_REJECTED', details: { reason: 'stale' } })
      await room.update({ board: [] }, { ifIndex: room.consensus.index })
      const unknown = await room.update({ turn: 'unknown' }).catch(caught)
      expect(unknown).toMatchObject({ code: 'UPDATE_UNKNOWN' })
      const circular: { self?: unknown } = {}
      circular.self = circular
      expect(await room.update(circular as never).catch(caught)).toMatchObject({
        code: 'INVALID_ARGUMENT',
      })
    })

    it('comes as a whole after an overflow, and after another lineage won', async () => {
      const room = await create<{ n?: number; other?: string }>('flood').ready
      const seen: [Json, boolean | undefined, number][] = []
      room.on('state-update', (change, _, { skipped, index }) =>
        seen.push([change, skipped, index]),
      )
      const slow = room.events()
      await room.chat.send('/flood 2000')
      await expect.poll(() => room.state).toEqual({ board: [], n: 1_999 })
      expect(seen.some(([change, skipped]) => change === null && skipped === true)).toBe(true)
      expect(seen.map(([, , index]) => index)).toEqual(
        seen.map(([, , index]) => index).toSorted((a, b) => a - b),
      )
      const first = await slow.next()
      expect(first.value).toMatchObject({ change: null, skipped: true, state: { n: 1_999 } })

      await room.chat.send('/replaced')
      await expect.poll(() => room.state).toEqual({ other: 'lineage' })
      const next = await take(slow, 2)
      expect(next.map(({ type }) => type).toSorted()).toEqual(['state-update', 'superseded'])
    })

    it('waits with queue while the room is read-only', async () => {
      const strict = await create('strict').ready
      await strict.chat.send('/quorum lost')
      expect(await strict.update({}).catch(caught)).toMatchObject({ code: 'NO_QUORUM' })

      const room = await create('queue', { queue: true }).ready
      await room.chat.send('/quorum lost')
      await expect.poll(() => room.consensus.status).toBe('read-only')
      let settled = false
      const update = room.update({ turn: 'bob' }).finally(() => (settled = true))
      const abort = new AbortController()
      const given = room.update({ turn: 'ann' }, { signal: abort.signal }).catch(caught)
      await new Promise((resolve) => setTimeout(resolve, 50))
      expect(settled).toBe(false)
      abort.abort('tired')
      expect(await given).toBe('tired')
      await room.chat.send('/quorum back')
      await update
      expect(room.state?.turn).toBe('bob')
    })
  })

  describe('the application', () => {
    it('admits: yes, no, why not, and nobody when it throws', async () => {
      const warned = vi.spyOn(console, 'warn').mockImplementation(() => undefined)
      const hellos: unknown[] = []
      const room = await create('door', {
        admit: async (hello) => {
          hellos.push(hello)
          if (hello.participantId === 'broken') throw new Error('no idea')
          return hello.participantId === 'bob' || 'not on the list'
        },
      }).ready
      const answers: string[] = []
      room.on('error', ({ code, message }) => code === 'ADMITTED' && answers.push(message))
      for (const name of ['bob', 'eve', 'broken']) await room.chat.send(`/knock ${name}`)
      await expect.poll(() => answers).toEqual(['true', '"not on the list"', 'false'])
      expect(hellos[0]).toEqual({
        participantId: 'bob',
        endpointId: 'cc'.repeat(32),
        proof: new Uint8Array([1, 2]),
      })
      expect(warned).not.toHaveBeenCalled()
    })

    it('reduces: the state is its own, in its own changes', async () => {
      type Move = { readonly place: number }
      const room = await create<Board, Move>('reduce', {
        reducer: (state, move, { index, author, seed }) => {
          expect(Object.isFrozen(state.board)).toBe(true)
          expect([index, author.length, seed.length]).toEqual([2, 64, 16])
          return { ...state, board: [...state.board, move.place] }
        },
      }).ready
      await room.update({ place: 4 })
      expect(room.state).toEqual({ board: [4] })
    })

    it('validates: what it refuses is refused for good, with its words', async () => {
      const room = await create('validate', {
        validate: (change, state) => {
          if (change.turn === 'eve') return 'it is not for eve'
          return change.board === undefined || change.board.length > state.board.length
        },
      }).ready
      await room.update({ board: [1] })
      const refused = await room.update({ turn: 'eve' }).catch(caught)
      expect(refused).toMatchObject({
        code: 'UPDATE_REJECTED',
        details: { reason: 'it is not for eve' },
      })
      expect(await room.update({ board: [] }).catch(caught)).toMatchObject({
        code: 'UPDATE_REJECTED',
      })
      expect(room.state).toEqual({ board: [1] })
    })

    it('is never guessed for: one that throws stops this replica', async () => {
      const warned = vi.spyOn(console, 'warn').mockImplementation(() => undefined)
      const room = await create('throws', {
        validate: () => {
          throw new Error('a bug')
        },
      }).ready
      expect(await room.update({}).catch(caught)).toMatchObject({ code: 'UPDATE_UNKNOWN' })
      expect(warned.mock.calls[0]?.[0]).toContain('a bug')
      await expect.poll(() => room.consensus.status).toBe('degraded')
    })

    it('consents, if the room wants a majority', async () => {
      const asked: unknown[] = []
      const room = await create('consent', {
        approval: 'majority',
        consent: (change, { author }) => {
          asked.push([change, author.length])
          return change.turn !== 'eve'
        },
      }).ready
      await room.update({ turn: 'bob' })
      const refused = await room.update({ turn: 'eve' }).catch(caught)
      expect(refused).toMatchObject({ code: 'UPDATE_REJECTED' })
      expect(asked).toEqual([
        [{ turn: 'bob' }, 64],
        [{ turn: 'eve' }, 64],
      ])
      const silent = await create('consent-by-default', { approval: 'majority' }).ready
      await silent.update({ turn: 'bob' })
    })
  })

  describe('its standing', () => {
    it('is told: doorman, quorum, voters, moderators', async () => {
      const room = await create('standing').ready
      expect(room.consensus).toMatchObject({
        status: 'active',
        isDoorman: true,
        doorman: room.self.id,
      })
      expect(room.participants).toEqual([
        { participantId: 'alice', id: room.self.id, voter: true, moderator: true },
      ])
      expect(room.moderators).toEqual([room.self.id])
      const at: unknown[] = []
      room.on('quorum-lost', ({ missing }) => at.push([missing.length, room.consensus.status]))
      room.on('quorum-restored', () => at.push(room.consensus.status))
      room.on('doorman-changed', ({ self }) => at.push([self, room.consensus.isDoorman]))
      await room.chat.send('/quorum lost')
      await room.chat.send('/quorum back')
      room.live.link.lifecycle('hidden')
      await expect.poll(() => at).toEqual([[1, 'read-only'], 'active', [false, false]])
      await room.chat.send('/promoted')
      await expect.poll(() => room.consensus.status).toBe('degraded')
      expect(Object.isFrozen(room.consensus.voters)).toBe(true)
    })

    it('is moderated', async () => {
      const room = await create('moderated').ready
      await room.kick('bob')
      await room.lock()
      await room.lock(false)
      expect(await room.rotate()).toBe('o'.repeat(52))
      expect(room.id).toBe('o'.repeat(52))
      await room.recover({ acceptLoss: true })
      await room.setModerators([])
      await expect.poll(() => room.moderators).toEqual([])
      const error = await room.kick('bob').catch(caught)
      expect(error).toMatchObject({ code: 'REFUSED', details: { reason: 'not a moderator' } })
    })
  })

  describe('what is kept', () => {
    it('begins the next room of that name', async () => {
      const name = `kept-${crypto.randomUUID()}`
      const where = runtime.store.locate(name, undefined)
      const persist = 'local'
      const first = await create(name, { persist }).ready
      await first.update({ board: [3] })
      await expect.poll(async () => String(await runtime.store.read(where))).not.toBe('undefined')
      await first.update({ turn: 'bob' })
      await first.leave()

      const second = await create(name, { persist, restore: true }).ready
      expect(second.state).toEqual({ board: [3], turn: 'bob' })
      const fresh = await create(`${name}-2`, { persist, restore: true }).ready
      expect(fresh.state).toEqual({ board: [] })
      const byName = Room.create('alice', {}, { live: second.live, restore: name })
      expect((await byName.ready).state).toEqual({ board: [3], turn: 'bob' })
      const bytes = Room.create('alice', {}, { live: second.live, restore: await second.saved() })
      expect((await bytes.ready).state).toEqual({ board: [3], turn: 'bob' })
      await runtime.store.setAside(where)
      await fresh.leave()
      await runtime.store.setAside(runtime.store.locate(`${name}-2`, undefined))
    })

    it('is put aside when it cannot be read, and then does not stand in the way', async () => {
      const name = `damaged-${crypto.randomUUID()}`
      const where = runtime.store.locate(name, undefined)
      await runtime.store.write(where, new Uint8Array([1, 2, 3]))
      const options = { persist: 'local', restore: true } as const
      const error = await create(name, options).ready.catch(caught)
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' })
      expect((error as Error).message).toMatch(/it is damaged\. It was put aside as .*unusable/)
      expect(await runtime.store.read(where)).toBeUndefined()
      const room = await create(name, options).ready
      expect(room.state).toEqual({ board: [] })
      await room.leave()
      await runtime.store.setAside(where)
    })
  })

  describe('its end', () => {
    it('is the end of the Live that was made for it', async () => {
      const room = await create('own').ready
      const { live } = room
      await room.leave()
      expect(await live.closed).toEqual({ reason: 'closed' })
      expect(await room.closed).toEqual({ reason: 'left' })
      expect(await room.update({}).catch(caught)).toMatchObject({ code: 'CLOSED' })
      expect(await room.recv()).toBeUndefined()
    })

    it('leaves a Live that was given open', async () => {
      const live = await spawn()
      const room = await create('given', { live }).ready
      expect(live.rooms.has(room as Room)).toBe(true)
      await room.leave()
      expect(live.rooms.size).toBe(0)
      expect(live.status).toBe('connected')
      // The ends of its streams come over ports of their own.
      await expect.poll(() => live.link.open).toEqual({ ports: 1, calls: 0 })
    })

    it('may be a kick', async () => {
      const live = await spawn()
      const room = await create('kicked', { live }).ready
      const events = room.events()
      const waiting = room.update({}).then(() => room.chat.send('/kicked'))
      expect(await room.closed).toEqual({ reason: 'kicked' })
      await waiting.catch(caught)
      const rest = await collect(events)
      expect(rest.map(({ type }) => type)).toEqual(['state-update'])
      await expect.poll(() => room.update({}).catch(caught)).toMatchObject({ code: 'CLOSED' })
    })
  })
}

async function take<T>(items: AsyncIterator<T, undefined>, count: number): Promise<T[]> {
  const taken: T[] = []
  while (taken.length < count) {
    const { value, done } = await items.next()
    if (done) break
    taken.push(value)
  }
  return taken
}

async function collect<S>(events: AsyncIterable<RoomEvent<S>>): Promise<RoomEvent<S>[]> {
  const all: RoomEvent<S>[] = []
  for await (const event of events) all.push(event)
  return all
}
