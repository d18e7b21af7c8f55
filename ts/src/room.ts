import type { Broadcast } from './broadcast.js'
import { Channel, toJson } from './channel.js'
import { Chat } from './chat.js'
import { RoomsError } from './errors.js'
import type { RoomClosed, RoomEvent, RoomListeners, StateUpdate, Subscription } from './events.js'
import type { Off, SignalOptions } from './internal/emitter.js'
import { EVENTS_WINDOW } from './internal/port-stream.js'
import { RoomShared, eventMapper } from './internal/room-shared.js'
import type { Live } from './live.js'
import { RemoteBroadcast } from './remote-broadcast.js'
import { type MergePatch, StateRoom, type StateRoomOptions } from './state-room.js'
import { RoomTicket } from './ticket.js'
import type { ChatMessage, Diagnosis, EndpointId, Json, Peer, RoomStats, Status } from './wire.js'

/** Options of {@link Room.open}. */
export interface RoomOptions extends SignalOptions {
  /** The name that others show for this peer: 1 to 64 bytes. */
  readonly displayName?: string
  /** What the application says about this peer: at most 2 KiB of JSON. */
  readonly presence?: Json
  /** Whether peers' broadcasts are subscribed to as they are announced. Default true. */
  readonly autoSubscribe?: boolean
  /**
   * Meets peers of iroh-live as well. Such a room shares `live.moq`: whoever dials the endpoint can
   * read what is published in it. One for each {@link Live}. Default: none.
   */
  readonly compat?: 'iroh-live'
}

/** Options of {@link Room.events}. */
export interface EventsOptions extends SignalOptions {
  /** How many events may wait on this thread; default 256. As many again wait in the Worker. */
  readonly buffer?: number
}

/**
 * The doing half of a room: publish, say, leave. Every handle is the same room; share it freely.
 */
export class RoomHandle implements AsyncDisposable {
  /** @internal */
  protected readonly shared: RoomShared
  /** The room's chat. */
  readonly chat: Chat

  /** @internal */
  constructor(shared: RoomShared) {
    this.shared = shared
    this.chat = new Chat(shared)
  }

  /** The topic id: the same for all in the room. */
  get id(): string {
    return this.shared.id
  }

  /** The endpoint that is in the room. */
  get live(): Live {
    return this.shared.live
  }

  /** This peer as others see it. */
  get self(): Peer {
    return this.shared.self
  }

  /** The others, by endpoint id; it changes with the events. */
  get peers(): ReadonlyMap<EndpointId, Peer> {
    return this.shared.peers
  }

  /** How the endpoint is connected. */
  get status(): Status {
    return this.shared.status
  }

  /** Settles when this peer is no longer in the room. Never rejects. */
  get closed(): Promise<RoomClosed> {
    return this.shared.closed
  }

  /** A ticket by which others enter: this peer and up to 7 others, with their relays. */
  async ticket(options: SignalOptions = {}): Promise<RoomTicket> {
    return RoomTicket.parse(await this.shared.call('roomTicket', [], options))
  }

  /**
   * Publishes a broadcast to the room, now and for those to come. One of the same name is replaced.
   * @param name - 1 to 64 bytes, without `/` and `*`; not `chat`, and no `~` or dot in front
   */
  async publish(name: string, broadcast: Broadcast, options: SignalOptions = {}): Promise<void> {
    await this.shared.call(
      'publish',
      (link): [string, number] => [name, broadcast.attach(link)],
      options,
    )
    await this.shared.refreshSelf()
  }

  /** Withdraws a broadcast, which is not leaving. False if there was none of that name. */
  async unpublish(name: string, options: SignalOptions = {}): Promise<boolean> {
    const was = await this.shared.call('unpublish', [name], options)
    await this.shared.refreshSelf()
    return was
  }

  /** A peer's broadcast; waits until it is announced. Needed only without `autoSubscribe`. */
  async subscribe(
    peer: Peer | EndpointId,
    name: string,
    options: SignalOptions = {},
  ): Promise<RemoteBroadcast> {
    const id = typeof peer === 'string' ? peer : peer.id
    await this.shared.call('waitBroadcast', [id, name], options)
    const { handle, link } = this.shared
    return new RemoteBroadcast(link, handle, id, name)
  }

  /** The same as `chat.send`. */
  sendChat(text: string, options: SignalOptions = {}): Promise<ChatMessage> {
    return this.chat.send(text, options)
  }

  /** Which broadcast carries this peer's chat; by default one of its own, made when needed. */
  async setChatPublisher(broadcast: Broadcast, options: SignalOptions = {}): Promise<void> {
    await this.shared.call(
      'setChatPublisher',
      (link): [number] => [broadcast.attach(link)],
      options,
    )
  }

  /** Sets the name that others show; undefined for none. At most 64 bytes. */
  async setDisplayName(name: string | undefined, options: SignalOptions = {}): Promise<void> {
    await this.shared.call('setDisplayName', [name], options)
    await this.shared.refreshSelf()
  }

  /** Sets what the application says about this peer; undefined for nothing. At most 2 KiB. */
  async setPresence(presence: Json | undefined, options: SignalOptions = {}): Promise<void> {
    const json = presence === undefined ? undefined : toJson(presence)
    await this.shared.call('setPresence', [json], options)
    await this.shared.refreshSelf()
  }

  /** Small JSON messages by name. `T` is a promise of the application's, not checked. */
  channel<T = Json>(name: string): Channel<T> {
    return new Channel<T>(this.shared, name)
  }

  /** Counters. */
  stats(): Promise<RoomStats> {
    return this.shared.call('roomStats', [])
  }

  /** How the connection to each peer looks, and what to try. */
  diagnose(): Promise<Diagnosis[]> {
    return this.shared.call('diagnose', [])
  }

  /** Says goodbye and leaves; readers of events come to their end. Idempotent, never rejects. */
  leave(): Promise<void> {
    return this.shared.leave()
  }

  /** The same as {@link leave}. */
  close(): Promise<void> {
    return this.leave()
  }

  /** The same as {@link leave}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.leave()
  }
}

/** The events half of a room: the one cursor that was opened with it. */
export class RoomEvents<S = unknown> implements AsyncIterable<RoomEvent<S>> {
  readonly #shared: RoomShared

  /** @internal */
  constructor(shared: RoomShared) {
    this.#shared = shared
  }

  /** The next event; undefined when the room has ended. */
  async recv(): Promise<RoomEvent<S> | undefined> {
    return (await this.#shared.cursor.next()).value as RoomEvent<S> | undefined
  }

  /** The next event if one is here already. */
  tryRecv(): RoomEvent<S> | undefined {
    return this.#shared.cursor.tryNext() as RoomEvent<S> | undefined
  }

  /** One {@link recv} after the other. Leaving the loop leaves the cursor where it is. */
  async *[Symbol.asyncIterator](): AsyncGenerator<RoomEvent<S>, undefined, undefined> {
    for (;;) {
      const event = await this.recv()
      if (!event) return undefined
      yield event
    }
  }
}

/**
 * A room: peers who hold the same ticket, what they publish, and what they say.
 *
 * @example
 * const live = await Live.spawn()
 * const room = await Room.open(live, RoomTicket.generate(), { displayName: 'Alice' })
 * for await (const event of room.events()) console.log(event.type)
 */
export class Room<S = unknown> extends RoomHandle {
  /**
   * Founds a room with a doorman and an agreed state: whoever knows its id can ask to come in. It is
   * there at once; `ready` says when it is entered, and its id then.
   *
   * @param participantId - the name of this participant, unique in the room: 1 to 64 bytes
   * @param initialState - JSON; default `{}`
   *
   * @example
   * const room = Room.create<Game>('alice', { board: [] })
   * console.log((await room.ready).id)
   */
  static create<S = Json, C = MergePatch<S>>(
    participantId: string,
    initialState?: S extends string ? never : S,
    options?: StateRoomOptions<S, C>,
  ): StateRoom<S, C>
  /**
   * The same under a name. A name is public: whoever guesses it can come in and stand at the door.
   * @throws by `ready`: `ROOM_EXISTS`
   */
  static create<S = Json, C = MergePatch<S>>(
    participantId: string,
    roomName: string,
    initialState?: S,
    options?: StateRoomOptions<S, C>,
  ): StateRoom<S, C>
  static create<S, C>(
    participantId: string,
    second?: unknown,
    third?: unknown,
    fourth?: StateRoomOptions<S, C>,
  ): StateRoom<S, C> {
    return typeof second === 'string'
      ? new StateRoom('create', participantId, second, third as S, fourth)
      : new StateRoom('create', participantId, undefined, second as S, third as typeof fourth)
  }

  /**
   * Asks to come into a room with a doorman: by its id, its name, or its ticket or link.
   * @throws by `ready`: `ROOM_NOT_FOUND`, `REFUSED`, `PARTICIPANT_ID_TAKEN`, `INVALID_TICKET`
   */
  static join<S = Json, C = MergePatch<S>>(
    participantId: string,
    room: string | URL | RoomTicket,
    options?: StateRoomOptions<S, C>,
  ): StateRoom<S, C> {
    return new StateRoom('join', participantId, String(room), undefined, options)
  }

  /** Comes into the room of a name if there is one, and founds it if there is none. */
  static joinOrCreate<S = Json, C = MergePatch<S>>(
    participantId: string,
    roomName: string,
    initialState?: S,
    options?: StateRoomOptions<S, C>,
  ): StateRoom<S, C> {
    return new StateRoom('join-or-create', participantId, roomName, initialState, options)
  }

  /**
   * Opens a gossip room: enters it, or waits in it for others. Does not wait for peers.
   * @param ticket - a {@link RoomTicket}, its text, or a link with `#room=`
   * @throws `INVALID_TICKET`, `INVALID_ARGUMENT`, `TOO_LARGE`, `CLOSED`
   */
  static async open(
    live: Live,
    ticket: RoomTicket | string,
    options: RoomOptions = {},
  ): Promise<Room> {
    // Whatever else it is, such as the ticket of another copy of this library, its text counts.
    const parsed = ticket instanceof RoomTicket ? ticket : RoomTicket.parse(ticket)
    if (parsed.roomId !== undefined) {
      throw new RoomsError(
        'INVALID_TICKET',
        'this is the ticket of a room with a doorman: enter it with Room.join(participantId, ticket)',
      )
    }
    const { displayName, presence, autoSubscribe = true, compat, signal } = options
    const { link } = live
    const handle = link.newHandle()
    const map = eventMapper(link, handle)
    const events = { window: EVENTS_WINDOW, map, owner: handle }
    const [main, cursor] = [link.newStream(events), link.newStream(events)]
    const wireOptions = {
      autoSubscribe,
      ...(displayName === undefined ? {} : { displayName }),
      ...(presence === undefined ? {} : { presence: toJson(presence) }),
      ...(compat === undefined ? {} : { compat }),
    }
    try {
      const opened = await link.call(
        'openRoom',
        [handle, parsed.toString(), wireOptions, main.port, cursor.port],
        { signal, transfer: [main.port, cursor.port] },
      )
      const shared = new RoomShared(live, opened.self)
      shared.cursor = cursor.stream
      shared.enter(live, handle, opened, main.stream)
      const room = new Room(shared)
      live.opened(room)
      return room
    } catch (error) {
      await Promise.all([main.stream.return(), cursor.stream.return()])
      // An abort may have come while the answer was on its way.
      if (signal?.aborted) link.post('leaveRoom', [handle])
      throw error
    }
  }

  /**
   * Calls the listener on each event of the type, until the returned function is called. What was
   * before is not repeated: read `peers`.
   */
  on<K extends keyof RoomListeners<S>>(
    type: K,
    listener: RoomListeners<S>[K],
    options: SignalOptions = {},
  ): Off {
    return this.shared.emitter.on(type, oneArgument(type, listener), options)
  }

  /** Calls the listener on the next event of the type only. */
  once<K extends keyof RoomListeners<S>>(
    type: K,
    listener: RoomListeners<S>[K],
    options: SignalOptions = {},
  ): Off {
    return this.shared.emitter.once(type, oneArgument(type, listener), options)
  }

  /**
   * A reader of its own: begins with `peer-joined` for those present. One that is too slow loses
   * the oldest events and gets `lagged`. Ends with the room.
   */
  events(options: EventsOptions = {}): Subscription<RoomEvent<S>> {
    return this.shared.events(options) as Subscription<RoomEvent<S>>
  }

  /** The next event of the cursor that was opened with the room; undefined when it has ended. */
  recv(): Promise<RoomEvent<S> | undefined> {
    return new RoomEvents<S>(this.shared).recv()
  }

  /** The next event of that cursor if one is here already. */
  tryRecv(): RoomEvent<S> | undefined {
    return new RoomEvents<S>(this.shared).tryRecv()
  }

  /** That cursor, and the doing half. The room itself stays usable. */
  split(): [RoomEvents<S>, RoomHandle] {
    return [new RoomEvents<S>(this.shared), new RoomHandle(this.shared)]
  }
}

/** A listener as the emitter calls it: `state-update` alone takes the parts of its event. */
function oneArgument(type: keyof RoomListeners, listener: unknown): never {
  if (type !== 'state-update') return listener as never
  const hear = listener as RoomListeners['state-update']
  return ((event: StateUpdate) => hear(event.change, event.state, event)) as never
}
