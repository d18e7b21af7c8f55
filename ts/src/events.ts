import type { RoomsError } from './errors.js'
import type { MoqSession } from './moq.js'
import type { RemoteBroadcast } from './remote-broadcast.js'
import type {
  ChatMessage,
  DoormanEvent,
  EndReason,
  EndpointId,
  Json,
  LeftReason,
  Peer,
  PeerField,
  Status,
} from './wire.js'

/**
 * What happens in a room.
 *
 * Presence is complete at the first event. Every `peer-joined` has exactly one `peer-left`;
 * updating or unpublishing is not leaving. One's own messages and broadcasts are not among them;
 * one's own changes of an agreed state are. `S` is that state as it is read, `DeepReadonly`.
 */
export type RoomEvent<S = unknown> =
  | PeerJoined
  | PeerUpdated
  | PeerLeft
  | BroadcastAnnounced
  | BroadcastSubscribed
  | BroadcastEnded
  | ChatReceived
  | StatusChanged
  | Lagged
  | ErrorEvent
  | StateUpdate<S>
  | DoormanEvent

/** A peer is here. */
export interface PeerJoined {
  readonly type: 'peer-joined'
  readonly peer: Peer
}

/** What a peer says of itself changed. */
export interface PeerUpdated {
  readonly type: 'peer-updated'
  /** The peer after the change. */
  readonly peer: Peer
  readonly changed: readonly PeerField[]
}

/** A peer is gone. */
export interface PeerLeft {
  readonly type: 'peer-left'
  /** The peer as last seen. */
  readonly peer: Peer
  readonly reason: LeftReason
}

/** A peer has new broadcasts. */
export interface BroadcastAnnounced {
  readonly type: 'broadcast-announced'
  readonly peer: Peer
  /** The new names. */
  readonly names: readonly string[]
}

/** A peer's broadcast can be read. Only with `autoSubscribe`. */
export interface BroadcastSubscribed {
  readonly type: 'broadcast-subscribed'
  readonly peer: Peer
  readonly name: string
  readonly broadcast: RemoteBroadcast
  /** The room's session with the peer. */
  readonly session: MoqSession
}

/** A peer's broadcast ended. */
export interface BroadcastEnded {
  readonly type: 'broadcast-ended'
  readonly peer: Peer
  readonly name: string
  readonly reason: EndReason
}

/** Somebody else said something. */
export interface ChatReceived extends ChatMessage {
  readonly type: 'chat-message'
}

/** The connection changed. */
export interface StatusChanged {
  readonly type: 'status'
  readonly status: Status
}

/**
 * This reader was too slow and events were dropped. Peers that joined or left meanwhile are made
 * up for by the events that follow, chat by `chat.history()`.
 */
export interface Lagged {
  readonly type: 'lagged'
  /** How many events were dropped. */
  readonly missed: number
}

/** Something failed that nobody asked for. Unheard, it is written to the console. */
export interface ErrorEvent {
  readonly type: 'error'
  /** A `RoomsErrorCode`. */
  readonly code: string
  readonly message: string
}

/** A value that cannot be changed, all the way down. */
export type DeepReadonly<T> = [Json] extends [T]
  ? T
  : T extends object
    ? { readonly [K in keyof T]: DeepReadonly<T[K]> }
    : T

/** Where a state comes from. */
export interface StateMeta {
  /** The place of the change in the order that all agree on. */
  readonly index: number
  /** Who proposed it; undefined with `skipped`. */
  readonly author?: EndpointId
  /** This reader missed changes, or the room's state was replaced: the change is null. */
  readonly skipped?: true
}

/** A change was agreed on and made. Only in rooms with a doorman. */
export interface StateUpdate<S = unknown> extends StateMeta {
  readonly type: 'state-update'
  /** As it was proposed. */
  readonly change: Json
  /** The state after it, deep-frozen. */
  readonly state: S
}

/** The listeners that `room.on` takes, by event type. */
export type RoomListeners<S = unknown> = {
  [E in Exclude<RoomEvent<S>, StateUpdate<S>> as E['type']]: (event: E) => void
} & {
  'state-update': (change: Json, state: S, meta: StateMeta) => void
}

/** The listeners that `live.on` takes. */
export interface LiveListeners {
  /** The connection to the relay changed. */
  status: (event: StatusChanged) => void
}

/** How a room ended. */
export interface RoomClosed {
  /**
   * Left here; its `Live` was closed; its Worker crashed; a moderator removed this participant; it
   * could not be entered; or the core ended it.
   */
  readonly reason: 'left' | 'live-closed' | 'crashed' | 'kicked' | 'failed' | 'ended'
  /** With `crashed`, `failed` and `ended`, where known. */
  readonly error?: RoomsError
}

/**
 * An async iterator that belongs to one reader. It ends by `break`, `return()`, its signal,
 * `await using`, or with what it reads from. Items that come while nobody asks wait, up to a limit
 * that each source states.
 */
export interface Subscription<T>
  extends AsyncIterableIterator<T, undefined, undefined>, AsyncDisposable {
  /** The next item if one is here already. */
  tryNext(): T | undefined
  /** Ends it, and drops what was not read. Idempotent. */
  return(): Promise<IteratorReturnResult<undefined>>
}
