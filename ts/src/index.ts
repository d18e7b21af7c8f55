/**
 * Rooms without an application server: people meet by a ticket, see each other come and go, chat,
 * and read each other's broadcasts, peer to peer over iroh.
 *
 * Nothing happens at import; a server that renders pages may import it.
 *
 * @packageDocumentation
 */
// First of all: room.ts, whose class it extends, makes its rooms.
export {
  type ChangeContext,
  type Hello,
  type JsonPatchOperation,
  type MergePatch,
  StateRoom,
  type StateRoomOptions,
  type UpdateOptions,
} from './state-room.js'
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
  DeepReadonly,
  ErrorEvent,
  Lagged,
  LiveListeners,
  PeerJoined,
  PeerLeft,
  PeerUpdated,
  RoomClosed,
  RoomEvent,
  RoomListeners,
  StateMeta,
  StateUpdate,
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
  ChangeKind,
  ChatMessage,
  Consensus,
  Datagram,
  Diagnosis,
  Divergence,
  DoormanChanged,
  DoormanEvent,
  EndReason,
  EndpointAddr,
  EndpointId,
  ForkDetected,
  Frame,
  IntegrityFault,
  Json,
  LeftReason,
  LiveStats,
  LogEntry,
  LogLevel,
  OrphanedChange,
  Participant,
  Peer,
  PeerField,
  QuorumLost,
  QuorumRestored,
  Recovered,
  RoomStats,
  Rotated,
  SessionStats,
  Status,
  Superseded,
} from './wire.js'
