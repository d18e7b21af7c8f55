/**
 * Everything that is said between the caller's thread and the Worker.
 *
 * Three ways lead across:
 * - the Worker's own channel: boot, lifecycle, questions to the application, fatal errors;
 * - the control port: {@link Control}, spoken by Comlink, which carries the calls of {@link Core};
 * - one data port for each stream, with credits, and one for each track that is written.
 *
 * Only plain data crosses. Objects in the Worker are small integers that the caller's side counts
 * up itself, so nobody waits for a number.
 */
import type { ErrorData } from '../src/errors.js'
import type {
  ChangeKind,
  ChatMessage,
  Consensus,
  Diagnosis,
  EndpointAddr,
  EndpointId,
  Json,
  LiveStats,
  LogEntry,
  LogLevel,
  Participant,
  Peer,
  RoomStats,
  SessionStats,
  Status,
} from '../src/wire.js'
import type {
  CoreOptions,
  ReadOptions,
  RoomOptions,
  StateRoomHow,
  StateRoomOptions,
  Tuning,
} from './core-module.js'

export type { CoreOptions, ReadOptions, RoomOptions, StateRoomHow, StateRoomOptions, Tuning }

/** Names an object in the Worker. Chosen by the caller's side, never used twice. */
export type Handle = number

/** A room's handle, or 0 for the endpoint's own scope. */
export type ScopeId = number

/** What the caller's side may ask of the Worker: the single source of the call types. */
export interface Core {
  addr(): Promise<EndpointAddr>
  stats(): Promise<LiveStats>
  statusChanges(port: MessagePort): Promise<void>
  /** The last call: leaves the rooms, flushes and closes the endpoint. */
  shutdown(graceMs: number): Promise<void>

  /**
   * Opens a room. Its events go to `main`, which feeds the listeners, and to `cursor`, which
   * `recv` reads.
   */
  openRoom(
    room: Handle,
    ticket: string,
    options: RoomOptions,
    main: MessagePort,
    cursor: MessagePort,
  ): Promise<RoomOpened>
  /**
   * Opens a room with a doorman; resolves when it is entered, and then it is a room like any other.
   * What was agreed on goes to `changes`, and how the agreement stands to `standing`.
   */
  openStateRoom(
    room: Handle,
    how: StateRoomHow,
    name: string | undefined,
    options: StateRoomOptions,
    main: MessagePort,
    cursor: MessagePort,
    changes: MessagePort,
    standing: MessagePort,
  ): Promise<StateRoomOpened>
  propose(
    room: Handle,
    kind: 'merge' | 'patch' | 'opaque',
    json: string,
    ifIndex: number | undefined,
  ): Promise<{ index: number }>
  kick(room: Handle, participant: string): Promise<void>
  lock(room: Handle, locked: boolean): Promise<void>
  setModerators(room: Handle, ids: string[]): Promise<void>
  rotate(room: Handle): Promise<string>
  recover(room: Handle): Promise<void>
  saved(room: Handle): Promise<Uint8Array>

  /** Nothing happens when the room is not there (any more). */
  leaveRoom(room: Handle): Promise<void>
  roomEvents(room: Handle, port: MessagePort): Promise<void>
  roomTicket(room: Handle): Promise<string>
  roomSelf(room: Handle): Promise<Peer>
  roomStats(room: Handle): Promise<RoomStats>
  diagnose(room: Handle): Promise<Diagnosis[]>
  setDisplayName(room: Handle, name: string | undefined): Promise<void>
  setPresence(room: Handle, json: string | undefined): Promise<void>
  sendChat(room: Handle, text: string): Promise<ChatMessage>
  chatHistory(room: Handle): Promise<ChatMessage[]>
  setChatPublisher(room: Handle, broadcast: Handle): Promise<void>
  channelSend(
    room: Handle,
    name: string,
    json: string,
    to: string | undefined,
    datagram: boolean,
  ): Promise<void>
  channelMessages(room: Handle, name: string, port: MessagePort): Promise<void>

  publish(scope: ScopeId, name: string, broadcast: Handle): Promise<void>
  unpublish(scope: ScopeId, name: string): Promise<boolean>
  publishedBroadcasts(scope: ScopeId): Promise<string[]>
  connect(scope: ScopeId, addr: EndpointAddr): Promise<SessionInfo>
  sessionInfo(scope: ScopeId, remote: string): Promise<SessionInfo | undefined>
  sessionStats(scope: ScopeId, remote: string): Promise<SessionStats | undefined>
  sessionClosed(scope: ScopeId, remote: string): Promise<SessionEnd>
  closeSession(scope: ScopeId, remote: string, code: number, reason: string): Promise<void>
  announced(scope: ScopeId, remote: string | undefined, port: MessagePort): Promise<void>
  incomingSessions(port: MessagePort): Promise<void>
  decideIncoming(pending: number, accept: boolean): Promise<boolean>
  /** Ends all sessions of all scopes, for good. */
  moqShutdown(): Promise<void>
  waitBroadcast(scope: ScopeId, remote: string, name: string): Promise<void>
  broadcastClosed(scope: ScopeId, remote: string, name: string): Promise<void>
  readTrack(
    scope: ScopeId,
    remote: string,
    name: string,
    track: string,
    options: ReadOptions,
    port: MessagePort,
  ): Promise<void>
  readDatagrams(
    scope: ScopeId,
    remote: string,
    name: string,
    track: string,
    port: MessagePort,
  ): Promise<void>
  fetchGroup(
    scope: ScopeId,
    remote: string,
    name: string,
    track: string,
    group: number,
    port: MessagePort,
  ): Promise<void>

  broadcastOpen(broadcast: Handle): Promise<void>
  /** Ends a broadcast: in good order, or with a code. */
  broadcastClose(broadcast: Handle, code: number | undefined): Promise<void>
  trackOpen(
    broadcast: Handle,
    name: string,
    options: { priority: number; maxAgeMs: number },
    port: MessagePort,
  ): Promise<void>
}

export type Method = keyof Core
export type Args<M extends Method> = Parameters<Core[M]>
export type Value<M extends Method> = Awaited<ReturnType<Core[M]>>

/** Methods whose last argument is the data port of a stream. */
export type StreamMethod = {
  [M in Method]: Core[M] extends (...args: [...infer _, MessagePort]) => Promise<void>
    ? M extends 'trackOpen'
      ? never
      : M
    : never
}[Method]
/** Methods about a room. */
export type RoomMethod = {
  [M in Method]: Core[M] extends (room: Handle, ...args: infer _) => Promise<unknown> ? M : never
}[Method]
/** Arguments of a {@link RoomMethod} after the room. */
export type RoomArgs<M extends Method> = Args<M> extends [Handle, ...infer Rest] ? Rest : never

/** Arguments of a {@link StreamMethod} before the port. */
export type StreamArgs<M extends StreamMethod> =
  Args<M> extends [...infer Rest, MessagePort] ? Rest : never

export interface RoomOpened {
  readonly id: string
  readonly self: Peer
  readonly peers: Peer[]
}

/** Who agrees in a room with a doorman, and how that stands. */
export interface Standing {
  readonly consensus: Consensus
  readonly participants: Participant[]
}

export interface StateRoomOpened extends RoomOpened, Standing {}

export interface SessionInfo {
  readonly remoteId: string
  readonly version: string
}

export interface SessionEnd {
  readonly code: number
  readonly reason: string
}

/** Nothing is thrown across: Comlink would keep only the message and the stack. */
export type Result<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: ErrorData }

/** What Comlink exposes on the control port. */
export interface Control {
  invoke<M extends Method>(op: number, method: M, args: Args<M>): Promise<Result<Value<M>>>
  /** The caller no longer waits for this operation. */
  cancel(op: number): void
}

/** From the caller's side, on the Worker's own channel. */
export type ToWorker = BootMessage | LifecycleMessage | AnswerMessage

export interface BootMessage {
  readonly t: 'boot'
  readonly protocol: number
  /** The control port. */
  readonly port: MessagePort
  /** Where the WebAssembly is; beside the Worker's script unless given. */
  readonly wasm: string | BufferSource | WebAssembly.Module | undefined
  /** A Web Lock to hold for life, so that the page can tell when that ends. */
  readonly lock: string | undefined
  /** What is logged is sent as `log`, unless undefined. */
  readonly log: LogLevel | undefined
  readonly options: CoreOptions
}

export interface LifecycleMessage {
  readonly t: 'lifecycle'
  readonly state: 'visible' | 'hidden' | 'frozen' | 'resumed' | 'leaving'
}

export interface AnswerMessage {
  readonly t: 'answer'
  readonly id: number
  readonly result: Result<unknown[]>
}

/** From the Worker, on its own channel. */
export type FromWorker =
  /** The script runs, the boot message is here. Tells a missing script from a missing wasm. */
  | { readonly t: 'booting' }
  | {
      readonly t: 'ready'
      readonly protocol: number
      readonly coreVersion: string
      readonly endpointId: string
      readonly status: Status
    }
  | { readonly t: 'failed'; readonly error: ErrorData }
  | { readonly t: 'log'; readonly entry: LogEntry }
  /** The WebAssembly instance is broken; nothing it holds can be used again. */
  | { readonly t: 'fatal'; readonly error: ErrorData }
  | AskMessage

export interface AskMessage {
  readonly t: 'ask'
  readonly id: number
  /** Whose application is asked. */
  readonly room: Handle
  readonly kind: AskKind
  readonly items: unknown[]
  readonly limitMs: number
}

/**
 * What the core may ask of the application: whether somebody may come in, what becomes of a change
 * that was committed, and whether it agrees to one that is not yet.
 */
export type AskKind = Question['kind']

/** A question of the core, as it asks it. */
export type Question =
  | {
      readonly id: number
      readonly kind: 'admit'
      readonly participantId: string
      readonly endpointId: EndpointId
      readonly proof?: number[]
    }
  | {
      readonly id: number
      readonly kind: 'decide'
      readonly change: Json
      readonly changeKind: ChangeKind
      readonly author: EndpointId
      readonly index: number
      readonly time: number
      readonly seed: string
      readonly state: Json
    }
  | {
      readonly id: number
      readonly kind: 'consider'
      readonly change: Json
      readonly changeKind: ChangeKind
      readonly author: EndpointId
    }

/** What becomes of a change; `failed` stops this replica's voting, for it is never guessed. */
export type Decision =
  | { readonly accept: true; readonly state?: Json }
  | { readonly refuse: string }
  | { readonly failed: true }

/** From the reader of a stream. */
export type StreamUp =
  /** So many more items and bytes may come. */
  { readonly t: 'credit'; readonly n: number; readonly bytes: number } | { readonly t: 'cancel' }

/** To the reader of a stream. */
export type StreamDown =
  /** An array of items, or its JSON. */
  | { readonly t: 'items'; readonly v: unknown[] | string }
  | { readonly t: 'end' }
  | { readonly t: 'err'; readonly error: ErrorData }

/** From the writer of a track. `group` numbers are chosen by the writer's side. */
export type TrackUp =
  | { readonly t: 'write'; readonly data: Uint8Array; readonly ts: number | undefined }
  | { readonly t: 'datagram'; readonly data: Uint8Array; readonly ts: number | undefined }
  | { readonly t: 'group'; readonly group: number }
  | {
      readonly t: 'frame'
      readonly group: number
      readonly data: Uint8Array
      readonly ts: number | undefined
    }
  | { readonly t: 'group-end'; readonly group: number; readonly code: number | undefined }
  | { readonly t: 'end'; readonly code: number | undefined }

/** What a track's writer posts: a message costs much more than what is in it, if that is small. */
export type TrackPost = TrackUp | { readonly t: 'batch'; readonly v: readonly TrackUp[] }

/** To the writer of a track. */
export type TrackDown =
  /** So many writes, with so many bytes, have been taken by the network. */
  | { readonly t: 'ack'; readonly n: number; readonly bytes: number }
  | { readonly t: 'demand'; readonly used: boolean }
  /** The track ended; without an error as the writer asked. */
  | { readonly t: 'closed'; readonly error: ErrorData | undefined }
