/**
 * Plain data that both threads know: it is cloned over the boundary as it is.
 */

/** Version of the messages between this library's page script and its Worker script. */
export const PROTOCOL = 1

/** The public key of an endpoint, as 64 lower-case hex digits. */
export type EndpointId = string

/** How to reach an endpoint. */
export interface EndpointAddr {
  /** Its id. */
  readonly id: EndpointId
  /** The relay it is connected to, where known. */
  readonly relayUrl?: string
}

/**
 * How an endpoint is connected: not yet, by its relay, looking for it again (by itself), or closed.
 */
export type Status = 'connecting' | 'connected' | 'reconnecting' | 'disconnected'

/** How grave it is: something failed, or something is wrong and was dealt with. */
export type LogLevel = 'error' | 'warn'

/** Something that the core, or a library in it, says in its log. */
export interface LogEntry {
  readonly level: LogLevel
  /** The Rust module that says it: `iroh_rooms::gossip`. */
  readonly target: string
  /** For people to read; up to 1 KiB, and some of it may come from peers. */
  readonly message: string
}

/** Any JSON value. */
export type Json =
  | null
  | boolean
  | number
  | string
  | readonly Json[]
  | { readonly [key: string]: Json }

/** A peer in a room, as it was at one moment: immutable, a change makes a new one. */
export interface Peer {
  /** Its endpoint id. */
  readonly id: EndpointId
  /** The name under which a doorman admitted it; never set in a gossip room. */
  readonly participantId?: string
  /** The name to show, chosen by the peer: not unique, not verified. */
  readonly displayName?: string
  /** What its application says about it, by `setPresence`; at most 2 KiB of JSON. */
  readonly presence?: Json
  /** Names of the broadcasts it publishes, sorted. */
  readonly broadcasts: readonly string[]
  /** When it was first seen here, in ms since 1970 by this machine's clock. */
  readonly joinedAt: number
}

/** A field of {@link Peer} that can change. */
export type PeerField = 'participantId' | 'displayName' | 'presence' | 'broadcasts'

/** Said goodbye, fell silent, or was shown out by the doorman. */
export type LeftReason = 'left' | 'timeout' | 'kicked'

/** Withdrawn by its peer, or gone with it. */
export type EndReason = 'unpublished' | 'peer-left'

/** A chat message. */
export interface ChatMessage {
  /** Who wrote it, as the session that carried it proves. */
  readonly peer: Peer
  /** The text, 1 to 4,096 bytes of UTF-8. */
  readonly text: string
  /** The writer's clock, in ms since 1970. */
  readonly timestamp: number
  /** Unique within the room. */
  readonly id: string
}

/** How a room's agreement stands. */
export interface Consensus {
  /**
   * `active`; `degraded`: a voter is missing, or this replica does not vote; `read-only`: too few
   * voters are reachable to agree on anything; `recovering`: survivors go on without the lost;
   * `forked`: there are two lineages.
   */
  readonly status: 'active' | 'degraded' | 'read-only' | 'recovering' | 'forked'
  /** Who stands at the door, while anybody does. */
  readonly doorman?: EndpointId
  /** Whether this peer does. */
  readonly isDoorman: boolean
  /** The lineage: it changes when survivors go on without a majority. Hex. */
  readonly epoch: string
  /** How many lineages came before. */
  readonly epochNumber: number
  /** Counts the elections of a doorman in this epoch. */
  readonly term: number
  /** The last change that was applied here. */
  readonly index: number
  /** Who votes. */
  readonly voters: readonly EndpointId[]
  /** Who has every change, and no vote. */
  readonly learners: readonly EndpointId[]
}

/** Who belongs to a room with a doorman, by what everybody agreed on. */
export interface Participant {
  /** The name under which it was admitted: unique in the room. */
  readonly participantId: string
  /** Its endpoint id. */
  readonly id: EndpointId
  /** Whether it votes. */
  readonly voter: boolean
  /** Whether it may kick, lock and rotate. */
  readonly moderator: boolean
}

/** A change that another lineage does not have. */
export interface OrphanedChange {
  /** Where it was, if it was committed. */
  readonly index?: number
  /** Who proposed it. */
  readonly author: EndpointId
  /** How it is to be read; see `UpdateOptions.format`. */
  readonly kind: ChangeKind
  /** The change. */
  readonly change: Json
}

/** A merge patch (RFC 7396), a JSON patch (RFC 6902), or what the application's reducer reads. */
export type ChangeKind = 'merge' | 'patch' | 'opaque'

/** Somebody else stands at the door now, or nobody. */
export interface DoormanChanged {
  readonly type: 'doorman-changed'
  /** Its endpoint id; undefined while there is none. */
  readonly doorman?: EndpointId
  /** Its participant id. */
  readonly participantId?: string
  /** Whether it is this peer. */
  readonly self: boolean
}

/** Too few voters are reachable: the room is read-only. */
export interface QuorumLost {
  readonly type: 'quorum-lost'
  /** The voters that are not reachable. */
  readonly missing: readonly EndpointId[]
  /** Whether those who are left may go on by themselves without losing anything. */
  readonly eligible: boolean
}

/** Changes are agreed on again. */
export interface QuorumRestored {
  readonly type: 'quorum-restored'
}

/** Survivors went on without a majority, in a new epoch. */
export interface Recovered {
  readonly type: 'recovered'
  readonly epoch: string
  /** Whether everything that was acknowledged is in it. */
  readonly lossless: boolean
  /** Own changes that are not. */
  readonly dropped: number
}

/** Another lineage of the room won; this peer joins it again by itself. */
export interface Superseded {
  readonly type: 'superseded'
  /** The changes of this side since the two parted; the other may have made some of them, too. */
  readonly orphaned: readonly OrphanedChange[]
}

/** There are two lineages of this room; one of them will be superseded. */
export interface ForkDetected {
  readonly type: 'fork-detected'
}

/** Members came to different states: `reducer` or `validate` is not the same everywhere. */
export interface Divergence {
  readonly type: 'divergence'
  readonly index: number
}

/** A doorman told members different things. */
export interface IntegrityFault {
  readonly type: 'integrity-fault'
  readonly index: number
}

/** The room has a new id; the old one leads nowhere. */
export interface Rotated {
  readonly type: 'rotated'
  readonly id: string
}

/** The events of rooms with a doorman, beyond those of every room. */
export type DoormanEvent =
  | DoormanChanged
  | QuorumLost
  | QuorumRestored
  | Recovered
  | Superseded
  | ForkDetected
  | Divergence
  | IntegrityFault
  | Rotated

/** What was agreed on, as the Worker sends it: the state as a whole, or one change after the other. */
export type WireChange =
  | {
      readonly type: 'state'
      readonly state: Json
      readonly index: number
      readonly skipped?: boolean
    }
  | {
      readonly type: 'change'
      readonly kind: ChangeKind
      readonly change: Json
      /** With a reducer: what it made of the state. */
      readonly state?: Json
      readonly index: number
      readonly author: EndpointId
      /** Why it was not made. */
      readonly refused?: string
    }

/** A room's events as the Worker sends them. */
export type WireEvent =
  | { readonly type: 'peer-joined'; readonly peer: Peer }
  | { readonly type: 'peer-updated'; readonly peer: Peer; readonly changed: readonly PeerField[] }
  | { readonly type: 'peer-left'; readonly peer: Peer; readonly reason: LeftReason }
  | { readonly type: 'broadcast-announced'; readonly peer: Peer; readonly names: readonly string[] }
  | { readonly type: 'broadcast-subscribed'; readonly peer: Peer; readonly name: string }
  | {
      readonly type: 'broadcast-ended'
      readonly peer: Peer
      readonly name: string
      readonly reason: EndReason
    }
  | ({ readonly type: 'chat-message' } & ChatMessage)
  | { readonly type: 'status'; readonly status: Status }
  | { readonly type: 'lagged'; readonly missed: number }
  | { readonly type: 'error'; readonly code: string; readonly message: string }
  | DoormanEvent
  /** The last one of a room that the core ends. */
  | { readonly type: 'ended'; readonly reason: 'kicked' }

/** One frame of a track. */
export interface Frame {
  /** The payload; this is the reader's own copy. */
  readonly data: Uint8Array
  /** The writer's presentation time, in µs. */
  readonly timestamp: number
  /** Sequence number of its group. */
  readonly group: number
  /** Its place in the group, from 0. */
  readonly index: number
  /** How many groups, whole or in part, were lost to this reader before this frame; only if any. */
  readonly missed?: number
}

/** A datagram of a track. */
export interface Datagram {
  /** The payload; this is the reader's own copy. */
  readonly data: Uint8Array
  /** The writer's presentation time, in µs. */
  readonly timestamp: number
  /** Its number, counted together with the track's groups. */
  readonly sequence: number
}

/** A broadcast came (`active`) or went. */
export interface Announcement {
  /** Whose it is. */
  readonly remoteId: EndpointId
  /** Its name. */
  readonly name: string
  /** Whether it is there now. */
  readonly active: boolean
}

/** Counters of a `Live`. */
export interface LiveStats {
  /** Open rooms. */
  readonly rooms: number
  /** MoQ sessions that stand. */
  readonly sessions: number
  /** Connections and messages refused since the start. */
  readonly refused: number
  /** Times that gossip hung or lost its way and was started anew. */
  readonly gossipRestarts: number
  /** Memory of the core, in bytes. WebAssembly only grows: what is freed is used again. */
  readonly memoryBytes: number
  /** Objects of the core that the Worker holds: rooms, broadcasts, tracks, groups, streams. */
  readonly objects: number
  /** Data ports between this thread and the Worker: one for each stream and each track written. */
  readonly ports: number
  /** Calls that the core works on. */
  readonly calls: number
  /**
   * Where the time of a start goes: when what happened for the first time, in ms from the start of
   * the core in its Worker. `bound`, `relay`, and of the rooms `topic`, `neighbor`, `peer`, `dial`,
   * `session`, `broadcast`, `message`; what has not happened is missing.
   */
  readonly firstMs: Readonly<Record<string, number>>
}

/** The part of {@link LiveStats} that the core counts itself. */
export type CoreStats = Omit<LiveStats, 'memoryBytes' | 'objects' | 'ports' | 'calls'>

/** Counters of a room. */
export interface RoomStats {
  /** Peers present. */
  readonly peers: number
  /** MoQ sessions of this room that stand. */
  readonly sessions: number
  /** Direct gossip neighbours. */
  readonly neighbors: number
  /** Messages refused since the room was opened. */
  readonly refused: number
}

/** Counters of one MoQ session, from its QUIC connection. */
export interface SessionStats {
  /** Round trip time in ms, once measured. */
  readonly rttMs: number | undefined
  /** Bytes sent, with headers and repeats. */
  readonly bytesSent: number
  /** Bytes received. */
  readonly bytesReceived: number
  /** Bytes that were lost and sent again. */
  readonly bytesLost: number
  /** QUIC packets received. */
  readonly packetsReceived: number
  /** Which way the packets go. Browsers always go by a relay. */
  readonly path: 'relay' | 'direct' | undefined
}

/** How the connection to one peer of a room looks. */
export interface Diagnosis {
  /** The peer. */
  readonly peer: EndpointId
  /** Which way packets go; `none` without a session. */
  readonly path: 'relay' | 'direct' | 'none'
  /** The relay that the peer says it is on. */
  readonly relayUrl?: string
  /** Round trip time in ms, with a session. */
  readonly rttMs?: number
  /** Sessions of this room with the peer. */
  readonly sessions: number
  /** Protocol of the session, such as `moq-lite-06`. */
  readonly version?: string
  /** Bytes sent over the session. */
  readonly bytesSent: number
  /** Bytes received over the session. */
  readonly bytesReceived: number
  /** How long ago anything was heard from it, in ms; outages on this side are not counted. */
  readonly lastHeardMs: number
  /** Messages of it that were refused. */
  readonly refused: number
  /** Dials that failed in a row. */
  readonly failedDials: number
  /** What to try, in words; empty when all is well. */
  readonly advice: string
}
