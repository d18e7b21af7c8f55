/**
 * What a Room, its handles and its chat share: who is there, who listens, and the room's handle in
 * the Worker. Fed by one stream of events, which sees every peer come and go.
 *
 * A room with a doorman is there before it is entered: until then commands wait, and streams open
 * late.
 */
import type { Handle, Method, RoomArgs, RoomOpened, Value } from '../../worker/protocol.js'
import { ChatLog } from '../chat.js'
import { RoomsError } from '../errors.js'
import type { RoomClosed, RoomEvent, RoomListeners, StateUpdate, Subscription } from '../events.js'
import type { Live } from '../live.js'
import { MoqSession } from '../moq.js'
import { RemoteBroadcast } from '../remote-broadcast.js'
import type { EndpointId, Peer, Status, WireEvent } from '../wire.js'
import { Emitter, type SignalOptions } from './emitter.js'
import { LateStream } from './late-stream.js'
import { type CallOptions, type Link, closedError, deferred } from './link.js'
import { EVENTS_WINDOW, type PortStreamOptions } from './port-stream.js'

/** Commands that wait for a room to be entered. Further ones reject with `TOO_LARGE`. */
const WAITING_COMMANDS = 64

/** The listeners by event, each with one argument. */
type Emitted = Omit<RoomListeners, 'state-update'> & {
  'state-update': (event: StateUpdate) => void
}

/** What a room that is entered later does when it is left. */
export interface Leaving {
  /** Not entered yet: gives the attempt up. */
  giveUp(): void
  /** Entered: the last moment to ask it something. Never rejects. */
  lastWords(): Promise<void>
}

interface Entered {
  readonly link: Link
  readonly handle: Handle
}

interface Waiting {
  run(): void
  fail(error: unknown): void
}

export class RoomShared {
  readonly emitter: Emitter<Emitted> = new Emitter<Emitted>()
  readonly log: ChatLog = new ChatLog()
  /** What `recv` reads. */
  cursor!: Subscription<RoomEvent>
  readonly #peers = new Map<EndpointId, Peer>()
  readonly peers: ReadonlyMap<EndpointId, Peer> = this.#peers
  readonly #closed = deferred<RoomClosed>()
  readonly #entering = deferred<Entered>()
  readonly #waiting: Waiting[] = []
  readonly #leave: Leaving | undefined
  id = ''
  /** Made for this room alone, and closed with it. */
  owned: Live | undefined
  #live: Live | undefined
  #entered: Entered | undefined
  #self: Peer
  #status: Status = 'connecting'
  #leaving: Promise<void> | undefined
  #ending: RoomClosed | undefined
  #ended: Promise<void> | undefined

  constructor(live: Live | undefined, self: Peer, leave?: Leaving) {
    this.#live = live
    this.#self = freeze(self)
    this.#leave = leave
    // A room that nobody waits for may fail unheard.
    this.#entering.promise.catch(() => undefined)
  }

  /** The room is open in the Worker: what waited for that goes ahead, in order. */
  enter(live: Live, handle: Handle, opened: RoomOpened, main: Subscription<RoomEvent>): void {
    this.#live = live
    this.#entered = { link: live.link, handle }
    this.id = opened.id
    for (const peer of opened.peers) this.#peers.set(peer.id, freeze(peer))
    this.#self = freeze(opened.self)
    this.#apply({ type: 'status', status: live.status })
    void this.#follow(main)
    void live.link.ended.then(({ reason, error }) => {
      if (error) this.#end({ reason: 'crashed', error })
      else this.#end({ reason: reason === 'closed' ? 'live-closed' : 'crashed' })
    })
    this.#entering.resolve(this.#entered)
    for (const waiting of this.#waiting.splice(0)) waiting.run()
  }

  /** The room cannot be entered. */
  fail(error: unknown): void {
    this.#entering.reject(error)
    for (const waiting of this.#waiting.splice(0)) waiting.fail(error)
    if (this.#leaving) this.#end({ reason: 'left' })
    else this.#end(RoomsError.is(error) ? { reason: 'failed', error } : { reason: 'failed' })
  }

  /** Something failed that nobody asked for. */
  report(code: string, message: string): void {
    this.#apply(Object.freeze({ type: 'error', code, message }))
  }

  /** The core ends the room next, for this reason. */
  endsFor(reason: RoomClosed['reason']): void {
    this.#ending ??= { reason }
  }

  get live(): Live {
    if (this.#live) return this.#live
    throw new RoomsError('CLOSED', 'the room has no Live yet: await room.ready first')
  }

  get link(): Link {
    return this.#in.link
  }

  get handle(): Handle {
    return this.#in.handle
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

  /** Asks the Worker about this room, once it is entered. */
  call<M extends Method>(
    method: M,
    args: RoomArgs<M> | ((link: Link) => RoomArgs<M>),
    options: CallOptions = {},
  ): Promise<Value<M>> {
    const run = (): Promise<Value<M>> => {
      const { link, handle } = this.#in
      const rest: readonly unknown[] = typeof args === 'function' ? args(link) : args
      return link.call(method, [handle, ...rest] as never, options)
    }
    return this.#entered ? run() : this.#wait(run, options.signal)
  }

  /** A stream of this room; until it is entered nothing comes. */
  stream<M extends 'roomEvents' | 'channelMessages', T>(
    method: M,
    args: RoomArgs<M> extends [...infer Rest, MessagePort] ? Rest : never,
    options: PortStreamOptions<T>,
  ): Subscription<T> {
    const open = ({ link, handle }: Entered): Subscription<T> =>
      link.stream(method, [handle, ...(args as readonly unknown[])] as never, options)
    if (this.#entered) return open(this.#entered)
    return new LateStream(this.#entering.promise.then(open), options.signal)
  }

  /** Reads again what this peer says of itself, after it said something new. */
  async refreshSelf(): Promise<void> {
    this.#self = freeze(await this.call('roomSelf', []))
  }

  /** A reader of its own; see `Room.events`. */
  events(options: SignalOptions & { readonly buffer?: number }): Subscription<RoomEvent> {
    const { buffer = EVENTS_WINDOW.items, signal } = options
    if (!Number.isInteger(buffer) || buffer < 1) {
      throw new RoomsError('INVALID_ARGUMENT', 'buffer is a number of events, 1 or more')
    }
    let map: ((wire: WireEvent) => RoomEvent | undefined) | undefined
    return this.stream('roomEvents', [], {
      window: { items: buffer, bytes: EVENTS_WINDOW.bytes },
      map: (wire: WireEvent) => {
        map ??= eventMapper(this.link, this.handle)
        return map(wire)
      },
      signal,
    })
  }

  leave(): Promise<void> {
    this.#leaving ??= this.#goodbye()
    return this.#leaving
  }

  get #in(): Entered {
    if (this.#entered) return this.#entered
    throw new RoomsError('CLOSED', 'the room is not entered yet: await room.ready first')
  }

  #wait<T>(run: () => Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    if (this.#ended) return this.#entering.promise.then(run)
    if (signal?.aborted) return Promise.reject(signal.reason)
    if (this.#waiting.length >= WAITING_COMMANDS) {
      const message = `${WAITING_COMMANDS} commands wait for the room already: await room.ready first`
      const details = { limit: WAITING_COMMANDS }
      return Promise.reject(new RoomsError('TOO_LARGE', message, { details }))
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
        reject(signal?.reason)
      }
      const stop = (): void => signal?.removeEventListener('abort', onAbort)
      const waiting: Waiting = {
        run: () => {
          stop()
          run().then(resolve, reject)
        },
        fail: (error) => {
          stop()
          reject(error)
        },
      }
      signal?.addEventListener('abort', onAbort)
      this.#waiting.push(waiting)
    })
  }

  async #goodbye(): Promise<void> {
    if (this.#entered) {
      await this.#leave?.lastWords()
      // Refused and failed alike mean: it is not open any more.
      await this.call('leaveRoom', []).catch(() => undefined)
      this.#end({ reason: 'left' })
    } else {
      this.#leave?.giveUp()
      await this.closed
    }
    await this.#ended
  }

  async #follow(main: Subscription<RoomEvent>): Promise<void> {
    let error: RoomsError | undefined
    try {
      for await (const event of main) this.#apply(event)
    } catch (thrown) {
      if (RoomsError.is(thrown)) error = thrown
    }
    // Leaving, closing and crashing end the stream as well, and say why in their own turn.
    if (this.#leaving) await this.#leaving
    if (this.link.ending || RoomsError.is(error, 'WORKER_CRASHED')) await this.link.ended
    // The core has ended it; the Worker is to let go of it as well.
    if (this.#ending) this.link.post('leaveRoom', [this.handle])
    this.#end(this.#ending ?? (error ? { reason: 'ended', error } : { reason: 'ended' }))
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
      case 'rotated':
        this.id = event.id
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
    if (this.#ended) return
    this.#ended = this.owned?.close() ?? Promise.resolve()
    if (this.#entered) this.link.expire(this.handle)
    this.log.end(closed.reason === 'crashed' ? (closed.error ?? closedError()) : undefined)
    if (this.#status !== 'disconnected') {
      this.#status = 'disconnected'
      this.emitter.emit('status', { type: 'status', status: 'disconnected' })
    }
    this.#closed.resolve(closed)
  }
}

/** Makes the public event of what came over the boundary; `ended` is nobody's to see. */
export function eventMapper(
  link: Link,
  room: Handle,
  onEnded?: (reason: 'kicked') => void,
): (wire: WireEvent) => RoomEvent | undefined {
  return (wire) => {
    if (wire.type === 'ended') {
      onEnded?.(wire.reason)
      return undefined
    }
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
