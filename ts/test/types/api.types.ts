/**
 * The API page of the design as code: it is compiled, never run. A changed name or type fails here
 * first.
 */
import {
  Broadcast,
  type BroadcastSubscribed,
  type ChatMessage,
  type Consensus,
  type DeepReadonly,
  type EndpointId,
  type Frame,
  type GroupReader,
  type GroupWriter,
  type IncomingSession,
  type Json,
  Live,
  type MoqSession,
  type Participant,
  type Peer,
  type PublishState,
  type RemoteBroadcast,
  Room,
  type RoomEvent,
  type RoomEvents,
  type RoomHandle,
  RoomPublisher,
  RoomTicket,
  RoomsError,
  type RoomsErrorCode,
  type StateRoom,
  type Status,
  type TrackWriter,
} from 'iroh-rooms'

import { type Same, holds } from './assert.js'

/** The examples of the page. */
export async function examples(render: (state: DeepReadonly<Game>) => void): Promise<void> {
  const room = Room.create<Game>('alice', { board: [] })
  const same = Room.join<Game>('bob', (await room.ready).id)
  await same.ready
  same.on('state-update', (_change, state, _meta) => render(state))
  await same.update({ board: [1] })
  const named = Room.joinOrCreate<Game>('carol', 'friday-game', { board: [] })
  holds<Same<typeof named, StateRoom<Game>>>()

  const live = await Live.spawn({ relay: 'http://localhost:3340' })
  const meeting = await Room.open(live, RoomTicket.generate(), { displayName: 'Alice' })
  for await (const event of meeting.events()) {
    holds<Same<typeof event, RoomEvent>>()
  }
}

type Game = { board: number[] }

/** A room with a doorman. */
export async function stateRoom(live: Live, signal: AbortSignal): Promise<void> {
  await using room = Room.create<Game>(
    'alice',
    'friday-game',
    { board: [] },
    {
      live,
      displayName: 'Alice',
      presence: { mood: 'fine' },
      admit: async ({ participantId, endpointId, proof }, { signal: asked }) => {
        holds<Same<typeof proof, Uint8Array | undefined>>()
        return asked.aborted ? 'too late' : participantId !== endpointId
      },
      validate: (change, state, { index, author, time, seed }) => {
        holds<
          Same<
            [typeof index, typeof author, typeof time, typeof seed],
            [number, EndpointId, number, string]
          >
        >()
        return (change.board ?? state.board).length < 10 || 'the board is full'
      },
      approval: 'majority',
      consent: (_change, { author }) => author.length > 0,
      persist: 'local',
      restore: true,
      recovery: 'manual',
      voters: 3,
      moderators: ['00'],
      queue: true,
      proof: new Uint8Array(8),
      app: new Uint8Array(32),
      joinTimeoutMs: 5_000,
      signal,
    },
  )
  holds<Same<typeof room.state, { readonly board: readonly number[] } | undefined>>()
  // @ts-expect-error: the state is frozen
  room.state?.board.push(1)
  const generic: Room = room
  void new RoomPublisher(generic, { camera: async () => new Broadcast() })

  room.on('state-update', (change, state, { index, author, skipped }) => {
    holds<Same<typeof change, Json>>()
    holds<Same<typeof state, DeepReadonly<Game>>>()
    holds<
      Same<
        [typeof index, typeof author, typeof skipped],
        [number, EndpointId | undefined, true | undefined]
      >
    >()
  })
  room.once('doorman-changed', ({ doorman, self }) => {
    holds<Same<[typeof doorman, typeof self], [EndpointId | undefined, boolean]>>()
  })
  room.on('quorum-lost', ({ missing, eligible }) => {
    holds<Same<[typeof missing, typeof eligible], [readonly EndpointId[], boolean]>>()
  })
  room.on('quorum-restored', () => undefined)
  room.on('recovered', ({ lossless, dropped }) => [lossless, dropped])
  room.on('superseded', ({ orphaned }) => orphaned.map(({ change }) => change))
  room.on('fork-detected', () => undefined)
  room.on('divergence', ({ index }) => index)
  room.on('integrity-fault', ({ index }) => index)
  room.on('rotated', ({ id }) => id.length)
  for await (const event of room.events({ signal })) {
    if (event.type === 'state-update') holds<Same<typeof event.state, DeepReadonly<Game>>>()
  }

  const { index } = await room.update({ board: [1] }, { ifIndex: room.consensus.index, signal })
  holds<Same<typeof index, number>>()
  await room.update([{ op: 'add', path: '/board/-', value: 1 }], { format: 'json-patch' })
  // @ts-expect-error: no such member
  await room.update({ bord: [1] })
  holds<Same<typeof room.consensus, Consensus>>()
  holds<Same<typeof room.participants, readonly Participant[]>>()
  await room.kick('bob', { signal })
  await room.lock(false)
  await room.setModerators([...room.moderators, '00'])
  holds<Same<Awaited<ReturnType<typeof room.rotate>>, string>>()
  await room.recover({ acceptLoss: true })
  // @ts-expect-error: loss has to be accepted
  await room.recover()

  type Move = { readonly place: number }
  const reduced = Room.joinOrCreate<Game, Move>('bob', 'friday-game', undefined, {
    live: { relay: 'http://localhost:3340', identity: 'memory' },
    reducer: (state, { place }) => ({ board: [...state.board, place] }),
    persist: { path: 'game.room' },
    restore: await room.saved(),
  })
  await reduced.update({ place: 1 })
  // @ts-expect-error: not what the reducer reads
  await reduced.update({ board: [] })
  Room.join('carol', await reduced.ticket(), { relay: 'n0', restore: false })
  Room.join('dora', new URL('https://example.org/#room=room…'))
  holds<Same<typeof reduced, StateRoom<Game, Move>>>()
}

/** Live. */
export async function live(signal: AbortSignal): Promise<void> {
  await using one = await Live.spawn({
    relay: ['https://a.example', new URL('https://b.example')],
    identity: new Uint8Array(32),
    worker: new URL('https://example.org/worker.js'),
    wasm: new Uint8Array(),
    moq: { accept: 'manual' },
    maxConnections: 64,
    log: ({ level, target, message }) => {
      holds<Same<typeof level, 'error' | 'warn'>>()
      holds<Same<typeof target, string>>()
      holds<Same<typeof message, string>>()
    },
    signal,
  })
  await Live.spawn({ relay: 'n0', identity: 'tab', log: 'warn' })
  // @ts-expect-error: neither a word nor bytes
  await Live.spawn({ identity: 'disk' })
  holds<Same<typeof one.endpointId, EndpointId>>()
  holds<Same<typeof one.status, Status>>()
  const off = one.on('status', ({ status }) => holds<Same<typeof status, Status>>(), { signal })
  off()
  // @ts-expect-error: no such event
  one.on('state', () => undefined)
  const { id, relayUrl } = await one.addr()
  holds<Same<typeof id, EndpointId>>()
  holds<Same<typeof relayUrl, string | undefined>>()
  for (const room of one.rooms) holds<Same<typeof room, Room>>()
  const { reason, error } = await one.closed
  holds<Same<typeof reason, 'closed' | 'crashed'>>()
  holds<Same<typeof error, RoomsError | undefined>>()
}

/** Room. */
export async function room(one: Live, signal: AbortSignal): Promise<void> {
  await using here = await Room.open(one, 'room…', {
    displayName: 'Alice',
    presence: { mood: ['fine'] },
    autoSubscribe: false,
    compat: 'iroh-live',
    signal,
  })
  holds<Same<typeof here.self, Peer>>()
  holds<Same<typeof here.peers, ReadonlyMap<EndpointId, Peer>>>()
  // @ts-expect-error: a peer is immutable
  here.self.displayName = 'Bob'

  here.on('peer-left', ({ peer, reason }) => {
    holds<Same<typeof peer, Peer>>()
    holds<Same<typeof reason, 'left' | 'timeout' | 'kicked'>>()
  })
  here.once('chat-message', ({ text }) => holds<Same<typeof text, string>>())
  here.on('broadcast-subscribed', (event) => holds<Same<typeof event, BroadcastSubscribed>>())
  here.on('lagged', ({ missed }) => holds<Same<typeof missed, number>>())
  // @ts-expect-error: no such event
  here.on('peer-arrived', () => undefined)

  await using events = here.events({ signal, buffer: 16 })
  for await (const event of events) {
    if (event.type === 'peer-updated') {
      const [field] = event.changed
      holds<
        Same<typeof field, 'participantId' | 'displayName' | 'presence' | 'broadcasts' | undefined>
      >()
    }
    if (event.type === 'broadcast-subscribed') {
      holds<Same<typeof event.broadcast, RemoteBroadcast>>()
      holds<Same<typeof event.session, MoqSession>>()
    }
  }
  holds<Same<Awaited<ReturnType<typeof here.recv>>, RoomEvent | undefined>>()
  holds<Same<ReturnType<typeof here.tryRecv>, RoomEvent | undefined>>()
  const [cursor, handle] = here.split()
  holds<Same<typeof cursor, RoomEvents>>()
  holds<Same<typeof handle, RoomHandle>>()
  for await (const event of cursor) holds<Same<typeof event, RoomEvent>>()

  const ticket = await here.ticket()
  holds<Same<typeof ticket, RoomTicket>>()
  ticket.toURL('https://example.org').href.toUpperCase()
  RoomTicket.parse(ticket.toString())
  RoomTicket.new('00'.repeat(32), [here.self.id])
  RoomTicket.fromEnv()

  await handle.setDisplayName('Bob', { signal })
  await handle.setDisplayName(undefined)
  await handle.setPresence({ at: [1, 2] })
  // @ts-expect-error: a function is no JSON
  await handle.setPresence(() => undefined)

  holds<Same<Awaited<ReturnType<typeof here.chat.send>>, ChatMessage>>()
  holds<Same<Awaited<ReturnType<typeof here.chat.history>>, ChatMessage[]>>()
  for await (const message of here.chat.messages({ history: false })) {
    holds<Same<typeof message, ChatMessage>>()
  }
  await handle.sendChat('hello')
  await handle.setChatPublisher(new Broadcast())

  const cursors = here.channel<{ x: number }>('cursors')
  await cursors.send({ x: 1 }, { to: here.self.id, datagram: true, signal })
  // @ts-expect-error: not what the channel carries
  await cursors.send('left')
  for await (const { from, value } of cursors) {
    holds<Same<typeof from, EndpointId>>()
    holds<Same<typeof value, { x: number }>>()
  }
  for await (const { value } of here.channel('any').messages({ signal })) {
    holds<Same<typeof value, Json>>()
  }

  holds<Same<Awaited<ReturnType<typeof here.stats>>['peers'], number>>()
  const [diagnosis] = await here.diagnose()
  holds<Same<NonNullable<typeof diagnosis>['path'], 'relay' | 'direct' | 'none'>>()
  const { reason } = await here.closed
  holds<Same<typeof reason, 'left' | 'live-closed' | 'crashed' | 'kicked' | 'failed' | 'ended'>>()
  await Promise.all([here.leave(), here.close()])
}

/** Broadcasts. */
export async function broadcasts(here: Room, peer: Peer, signal: AbortSignal): Promise<void> {
  await using broadcast = new Broadcast()
  const writer = broadcast.track('clock', { priority: 10, maxAgeMs: 1_000 })
  holds<Same<typeof writer, TrackWriter>>()
  await here.publish('clock', broadcast)
  writer.write(new Uint8Array(1), { timestamp: 1, transfer: true })
  {
    using group = writer.group()
    holds<Same<typeof group, GroupWriter>>()
    group.write(new Uint8Array(1))
  }
  writer.datagram(new Uint8Array(1))
  await writer.ready
  holds<Same<typeof writer.demand, boolean>>()
  await writer.used({ signal })
  await writer.close()
  holds<Same<Awaited<ReturnType<typeof here.unpublish>>, boolean>>()

  const remote = await here.subscribe(peer, 'clock', { signal })
  const reader = remote.track('clock', {
    priority: 1,
    maxAgeMs: 0,
    start: 3,
    ordered: false,
    signal,
  })
  for await (const group of reader) {
    holds<Same<typeof group, GroupReader>>()
    for await (const frame of group) holds<Same<typeof frame, Frame>>()
  }
  for await (const { data, timestamp, group, index } of reader.frames()) {
    holds<Same<typeof data, Uint8Array>>()
    holds<Same<[typeof timestamp, typeof group, typeof index], [number, number, number]>>()
  }
  holds<Same<ReturnType<typeof reader.toReadable>, ReadableStream<Frame>>>()
  holds<Same<typeof reader.missed, number>>()
  for await (const { data, sequence } of remote.datagrams('clock', { signal })) {
    holds<Same<[typeof data, typeof sequence], [Uint8Array, number]>>()
  }
  for await (const frame of remote.fetch('clock', 3, { signal })) {
    holds<Same<typeof frame, Frame>>()
    holds<Same<typeof frame.missed, number | undefined>>()
  }
  await remote.closed
}

/** Moq. */
export async function moq({ moq: own }: Live, broadcast: Broadcast): Promise<void> {
  await own.publish('name', broadcast)
  holds<Same<Awaited<ReturnType<typeof own.publishedBroadcasts>>, string[]>>()
  for await (const incoming of own.incomingSessions()) {
    holds<Same<typeof incoming, IncomingSession>>()
    holds<Same<typeof incoming.skipped, number>>()
    await incoming.reject()
    holds<Same<Awaited<ReturnType<typeof incoming.accept>>, MoqSession>>()
  }
  const session = await own.connect({ id: '00', relayUrl: 'https://a.example' })
  holds<Same<typeof session, MoqSession>>()
  holds<Same<Awaited<ReturnType<typeof session.subscribe>>, RemoteBroadcast>>()
  for await (const { name, active } of session.announced()) {
    holds<Same<[typeof name, typeof active], [string, boolean]>>()
  }
  const { bytesSent, path } = await session.stats()
  holds<Same<typeof bytesSent, number>>()
  holds<Same<typeof path, 'relay' | 'direct' | undefined>>()
  await session.publish('name', broadcast)
  await session.close(5, 'enough')
  const { code, reason } = await session.closed
  holds<Same<[typeof code, typeof reason], [number, string]>>()
  await own.shutdown()
}

/** A publisher. */
export async function publisher(here: RoomHandle, make: () => Promise<Broadcast>): Promise<void> {
  await using both = new RoomPublisher(here, { camera: make, screen: make }, { microphone: false })
  await both.setState({ screen: true })
  holds<Same<typeof both.state, PublishState>>()
  both.on('state', ({ state }) => holds<Same<typeof state, PublishState>>())
  // @ts-expect-error: there is always a camera
  void new RoomPublisher(here, { screen: make })
}

/** Errors. */
export function errors(error: unknown): void {
  if (RoomsError.is(error)) holds<Same<typeof error.code, RoomsErrorCode>>()
  if (RoomsError.is(error, 'TOO_LARGE')) {
    holds<Same<typeof error.code, 'TOO_LARGE'>>()
    holds<Same<typeof error.details.limit, number>>()
  }
  if (RoomsError.is(error, 'REFUSED') || RoomsError.is(error, 'UPDATE_REJECTED')) {
    error.details.reason.trim()
  }
  if (RoomsError.is(error, 'CLOSED')) holds<Same<typeof error.details, undefined>>()
  if (RoomsError.is(error, 'SESSION_CLOSED')) error.details.reason.trim()
  // @ts-expect-error: no such code
  RoomsError.is(error, 'NOPE')
  // @ts-expect-error: only the library makes handles
  void new Room()
}
