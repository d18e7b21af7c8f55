/**
 * What the Worker asks of the WebAssembly module: the contract with `crates/bindings`.
 *
 * The entries assign the generated module to {@link CoreModule}, so a change on the Rust side that
 * breaks this page fails to compile.
 */
import type {
  ChatMessage,
  Consensus,
  CoreStats,
  Diagnosis,
  EndpointAddr,
  LogLevel,
  Participant,
  Peer,
  RoomStats,
  SessionStats,
  Status,
} from '../src/wire.js'

/** The module as a whole. */
export interface CoreModule {
  /** Version of the crate. */
  version(): string
  /** Calls back, within the panicking call, with the message of a Rust panic. */
  onPanic(callback: (message: string) => void): void
  /** Calls back with what is logged from now on. The callback must not call the module. */
  onLog(level: LogLevel, callback: (level: LogLevel, target: string, message: string) => void): void
  readonly Core: { spawn(options: CoreOptions): Promise<CoreHandle> }
  readonly Broadcast: new () => BroadcastHandle
  readonly Cancel: new () => CancelHandle
  /** Size of the instance's memory, which never shrinks. */
  memoryBytes(): number
  /** Promises of the core that have not settled. */
  callsUnderWay(): number
}

/** Gives up the one call that it is passed to, which then rejects with `CLOSED`. */
export interface CancelHandle {
  cancel(): void
  free(): void
}

export interface CoreOptions {
  relays: 'n0' | string[]
  secretKey?: Uint8Array
  moqAccept: 'all' | 'manual'
  maxConnections?: number
  tuning?: Tuning
}

/** What makes it fast, each to be switched off by the benchmark; default: all on. */
export interface Tuning {
  /** ChaCha20 before AES. */
  readonly cipher?: boolean
  /** Packets before the peer acknowledges, 0 for QUIC's own rule. */
  readonly acks?: number
  /** Ten packets in one message of the relay's WebSocket. */
  readonly batching?: boolean
  /** The start waits for the relay, not for the report on the network. */
  readonly early?: boolean
  /** After an idle start, a room within the process: its code is compiled before it is needed. */
  readonly warm?: boolean
}

export interface RoomOptions {
  displayName?: string
  /** JSON. */
  presence?: string
  autoSubscribe: boolean
  compat?: 'iroh-live'
}

/** Enter a room that is there, found one, or whichever it turns out to be. */
export type StateRoomHow = 'create' | 'join' | 'join-or-create'

export interface StateRoomOptions extends RoomOptions {
  participantId: string
  /** JSON, of who creates. */
  initialState?: string
  /** The application's reducer makes the state. */
  reducer: boolean
  /** The application may refuse a change when it is applied. */
  validate: boolean
  /** The application is asked about newcomers; else all are let in. */
  admit: boolean
  approval: 'guard' | 'majority'
  recovery: 'auto' | 'manual' | 'never'
  voters: number
  /** Endpoint ids, beside the creator's. */
  moderators?: string[]
  /** Shown to `admit`. */
  proof?: Uint8Array
  /** Hash of the application's version, 32 bytes. */
  app?: Uint8Array
  /** What `saved()` gave: the state of a room that is created. */
  restore?: Uint8Array
  /** How suited it is to vote and lead: 0 mobile, 1 hidden tab, 2 visible tab, 3 Node. */
  priority: number
  joinTimeoutMs: number
}

export interface ReadOptions {
  priority: number
  maxAgeMs: number
  start?: number
  ordered: boolean
}

/** An object in the module's memory; nothing may be asked of it once it is freed. */
export interface Freeable {
  free(): void
}

export interface CoreHandle {
  endpointId(): string
  secretKey(): Uint8Array
  addr(): EndpointAddr
  status(): Status
  statusChanges(): StreamHandle
  stats(): CoreStats
  scope(): ScopeHandle
  incomingSessions(): StreamHandle
  decideIncoming(pending: number, accept: boolean): Promise<boolean>
  moqShutdown(): Promise<void>
  openRoom(ticket: string, options: RoomOptions): Promise<RoomHandle>
  /** The room is there at once; `ready()` says when it is entered. */
  openStateRoom(
    how: StateRoomHow,
    room: string | undefined,
    options: StateRoomOptions,
  ): StateRoomHandle
  visibility(state: 'visible' | 'hidden' | 'frozen' | 'resumed'): void
  leaveNow(): void
  shutdown(graceMs: number): Promise<void>
  free(): void
}

export interface RoomHandle {
  id(): string
  self(): Peer
  peers(): Peer[]
  events(): StreamHandle
  ticket(): Promise<string>
  publish(name: string, broadcast: BroadcastHandle): Promise<void>
  unpublish(name: string): Promise<boolean>
  setDisplayName(name?: string): Promise<void>
  setPresence(json?: string): Promise<void>
  sendChat(text: string): Promise<ChatMessage>
  chatHistory(): ChatMessage[]
  setChatPublisher(broadcast: BroadcastHandle): Promise<void>
  channelSend(name: string, json: string, to: string | undefined, datagram: boolean): Promise<void>
  channelMessages(name: string): Promise<StreamHandle>
  scope(): ScopeHandle
  stats(): Promise<RoomStats>
  diagnose(): Promise<Diagnosis[]>
  leave(): Promise<void>
  free(): void
}

export interface StateRoomHandle {
  ready(cancel: CancelHandle): Promise<void>
  /** z-base-32; empty before `ready` of a keyed room that is created. */
  id(): string
  /** After `ready`: presence, chat, broadcasts, channels, events. */
  room(): RoomHandle
  /** After `ready`: items are `WireChange`, as JSON. */
  changes(): StreamHandle
  /** From the start: items are `Question`, as JSON. */
  questions(): StreamHandle
  answer(id: number, json: string): void
  consensus(): Consensus
  participants(): Participant[]
  propose(
    kind: 'merge' | 'patch' | 'opaque',
    json: string,
    ifIndex?: number,
  ): Promise<{ index: number }>
  /** Participant id or endpoint id. */
  kick(participant: string): Promise<void>
  lock(locked: boolean): Promise<void>
  setModerators(ids: string[]): Promise<void>
  /** The new room id. */
  rotate(): Promise<string>
  /** Accepts loss. */
  recover(): Promise<void>
  handOver(): void
  saved(): Uint8Array
  /** Leaves `room()`, too. */
  leave(): Promise<void>
  free(): void
}

export interface ScopeHandle {
  publish(name: string, broadcast: BroadcastHandle): void
  unpublish(name: string): boolean
  publishedBroadcasts(): string[]
  connect(addr: EndpointAddr, cancel: CancelHandle): Promise<void>
  sessionInfo(remote: string): { remoteId: string; version: string } | undefined
  sessionStats(remote: string): SessionStats | undefined
  sessionClosed(remote: string, cancel: CancelHandle): Promise<{ code: number; reason: string }>
  closeSession(remote: string, code: number, reason: string): void
  announced(remote?: string): StreamHandle
  waitBroadcast(remote: string, name: string, cancel: CancelHandle): Promise<void>
  broadcastClosed(remote: string, name: string, cancel: CancelHandle): Promise<void>
  readTrack(
    remote: string,
    name: string,
    track: string,
    options: ReadOptions,
    cancel: CancelHandle,
  ): Promise<StreamHandle>
  readDatagrams(
    remote: string,
    name: string,
    track: string,
    cancel: CancelHandle,
  ): Promise<StreamHandle>
  fetchGroup(
    remote: string,
    name: string,
    track: string,
    group: number,
    cancel: CancelHandle,
  ): Promise<StreamHandle>
  free(): void
}

export interface BroadcastHandle {
  track(name: string, options: { priority: number; maxAgeMs: number }): TrackHandle
  finish(): void
  abort(code: number): void
  free(): void
}

export interface TrackHandle {
  write(data: Uint8Array, timestampUs?: number): number
  group(): GroupHandle
  datagram(data: Uint8Array, timestampUs?: number): void
  used(): Promise<boolean>
  unused(): Promise<boolean>
  /** Whether the network has taken enough of what was written. */
  isReady(): boolean
  /** Waits until it has; false when the track ended instead. */
  ready(): Promise<boolean>
  isUsed(): boolean
  finish(): void
  abort(code: number): void
  free(): void
}

export interface GroupHandle {
  write(data: Uint8Array, timestampUs?: number): void
  finish(): void
  abort(code: number): void
  free(): void
}

/** Some items of a stream; one that is not the last has at least one. */
export interface Batch {
  /** An array, or its JSON. */
  items: unknown[] | string
  count: number
  done: boolean
}

/** Items one batch after the other. */
export interface StreamHandle {
  nextBatch(maxItems: number, maxBytes: number): Promise<Batch>
  cancel(): void
  free(): void
}
