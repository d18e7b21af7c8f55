/**
 * What a Room, its handles and its chat share: who is there, who listens, and the room's handle in
 * the Worker. Fed by one stream of events, which sees every peer come and go.
 */
import type { Handle, RoomOpened } from '../../worker/protocol.js'
import { ChatLog } from '../chat.js'
import { RoomsError } from '../errors.js'
import type { RoomClosed, RoomEvent, RoomListeners, Subscription } from '../events.js'
import type { Live } from '../live.js'
import { MoqSession } from '../moq.js'
import { RemoteBroadcast } from '../remote-broadcast.js'
import type { EndpointId, Peer, Status, WireEvent } from '../wire.js'
import { Emitter, type SignalOptions } from './emitter.js'
import { type Link, closedError, deferred } from './link.js'
import { EVENTS_WINDOW, type PortStream } from './port-stream.js'

export class RoomShared {
  readonly live: Live
  readonly link: Link
  readonly handle: Handle
  readonly id: string
  readonly emitter: Emitter<RoomListeners> = new Emitter<RoomListeners>()
  readonly log: ChatLog = new ChatLog()
  /** What `recv` reads. */
  readonly cursor: PortStream<RoomEvent>
  readonly peers: ReadonlyMap<EndpointId, Peer>
  readonly #peers: Map<EndpointId, Peer>
  readonly #closed = deferred<RoomClosed>()
  #self: Peer
  #status: Status
  #leaving: Promise<void> | undefined
  #over = false

  constructor(
    live: Live,
    handle: Handle,
    opened: RoomOpened,
    main: PortStream<RoomEvent>,
    cursor: PortStream<RoomEvent>,
  ) {
    this.live = live
    this.link = live.link
    this.handle = handle
    this.id = opened.id
    this.cursor = cursor
    this.#peers = new Map(opened.peers.map((peer) => [peer.id, freeze(peer)]))
    this.peers = this.#peers
    this.#self = freeze(opened.self)
    this.#status = live.status
    void this.#follow(main)
    void this.link.ended.then(({ reason, error }) => {
      if (error) this.#end({ reason: 'crashed', error })
      else this.#end({ reason: reason === 'closed' ? 'live-closed' : 'crashed' })
    })
  }

  get self(): Peer {
    return this.#self
  }

  get status(): Status {
    return this.#status
  }

  get closed(): Promise<RoomClosed> {
    return this.#closed.promise
  }

  /** Reads again what this peer says of itself, after it said something new. */
  async refreshSelf(): Promise<void> {
    this.#self = freeze(await this.link.call('roomSelf', [this.handle]))
  }

  /** A reader of its own; see `Room.events`. */
  events(options: SignalOptions & { readonly buffer?: number }): Subscription<RoomEvent> {
    const { buffer = EVENTS_WINDOW.items, signal } = options
    if (!Number.isInteger(buffer) || buffer < 1) {
      throw new RoomsError('INVALID_ARGUMENT', 'buffer is a number of events, 1 or more')
    }
    return this.link.stream('roomEvents', [this.handle], {
      window: { items: buffer, bytes: EVENTS_WINDOW.bytes },
      map: eventMapper(this.link, this.handle),
      signal,
    })
  }

  leave(): Promise<void> {
    this.#leaving ??= this.#leave()
    return this.#leaving
  }

  async #leave(): Promise<void> {
    // Refused and failed alike mean: it is not open any more.
    await this.link.call('leaveRoom', [this.handle]).catch(() => undefined)
    this.#end({ reason: 'left' })
  }

  async #follow(main: PortStream<RoomEvent>): Promise<void> {
    let error: RoomsError | undefined
    try {
      for await (const event of main) this.#apply(event)
    } catch (thrown) {
      if (RoomsError.is(thrown)) error = thrown
    }
    // Leaving, closing and crashing end the stream as well, and say why in their own turn.
    if (this.#leaving) await this.#leaving
    if (this.link.ending || RoomsError.is(error, 'WORKER_CRASHED')) await this.link.ended
    this.#end(error ? { reason: 'ended', error } : { reason: 'ended' })
  }

  #apply(event: RoomEvent): void {
    switch (event.type) {
      case 'peer-joined': {
        // Those who were there at the opening are in `peers` already: listeners hear only of news.
        const known = this.#peers.get(event.peer.id)
        this.#peers.set(event.peer.id, event.peer)
        if (known?.joinedAt === event.peer.joinedAt) return
        break
      }
      case 'peer-updated':
        this.#peers.set(event.peer.id, event.peer)
        break
      case 'peer-left':
        this.#peers.delete(event.peer.id)
        break
      case 'chat-message': {
        const { peer, text, timestamp, id } = event
        this.log.append({ peer, text, timestamp, id })
        break
      }
      case 'status':
        this.#status = event.status
        break
      case 'error':
        if (!this.emitter.heard('error')) {
          console.warn(`iroh-rooms: ${event.code}: ${event.message}`)
        }
        break
    }
    this.emitter.emit(event.type, event)
  }

  #end(closed: RoomClosed): void {
    if (this.#over) return
    this.#over = true
    this.link.expire(this.handle)
    this.log.end(closed.reason === 'crashed' ? (closed.error ?? closedError()) : undefined)
    if (this.#status !== 'disconnected') {
      this.#status = 'disconnected'
      this.emitter.emit('status', { type: 'status', status: 'disconnected' })
    }
    this.#closed.resolve(closed)
  }
}

/** Makes the public event of what came over the boundary. */
export function eventMapper(link: Link, room: Handle): (wire: WireEvent) => RoomEvent {
  return (wire) => {
    if ('peer' in wire) freeze(wire.peer)
    if (wire.type !== 'broadcast-subscribed') return Object.freeze(wire)
    const { type, peer, name } = wire
    const broadcast = new RemoteBroadcast(link, room, peer.id, name)
    return Object.freeze({
      type,
      peer,
      name,
      broadcast,
      session: new MoqSession(link, room, peer.id),
    })
  }
}

function freeze(peer: Peer): Peer {
  Object.freeze(peer.broadcasts)
  return Object.freeze(peer)
}
