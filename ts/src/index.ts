/**
 * Rooms without an application server: people meet by a ticket, see each other come and go, chat,
 * and read each other's broadcasts, peer to peer over iroh.
 *
 * Nothing happens at import; a server that renders pages may import it.
 *
 * @packageDocumentation
 */
export {
  Broadcast,
  GroupWriter,
  type TrackOptions,
  TrackWriter,
  type WriteOptions,
} from './broadcast.js'
export { Channel, type ChannelMessage, type ChannelSendOptions } from './channel.js'
export { Chat, type MessagesOptions } from './chat.js'
export {
  type DetailsOf,
  RoomsError,
  type RoomsErrorCode,
  type RoomsErrorDetails,
} from './errors.js'
export type {
  BroadcastAnnounced,
  BroadcastEnded,
  BroadcastSubscribed,
  ChatReceived,
  ErrorEvent,
  Lagged,
  LiveListeners,
  PeerJoined,
  PeerLeft,
  PeerUpdated,
  RoomClosed,
  RoomEvent,
  RoomListeners,
  StatusChanged,
  Subscription,
} from './events.js'
export type { Off, SignalOptions } from './internal/emitter.js'
export type { WorkerLike, WorkerSource } from './internal/runtime.js'
export { Live, type LiveClosed, type LiveOptions } from './live.js'
export { IncomingSession, Moq, MoqSession } from './moq.js'
export { GroupReader, type ReadOptions, RemoteBroadcast, TrackReader } from './remote-broadcast.js'
export { type EventsOptions, Room, RoomEvents, RoomHandle, type RoomOptions } from './room.js'
export {
  type PublishSources,
  type PublishState,
  type PublisherListeners,
  RoomPublisher,
} from './room-publisher.js'
export { RoomTicket } from './ticket.js'
export type {
  Announcement,
  ChatMessage,
  Datagram,
  Diagnosis,
  EndReason,
  EndpointAddr,
  EndpointId,
  Frame,
  Json,
  LeftReason,
  LiveStats,
  LogEntry,
  LogLevel,
  Peer,
  PeerField,
  RoomStats,
  SessionStats,
  Status,
} from './wire.js'
