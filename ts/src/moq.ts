import type { Broadcast } from './broadcast.js'
import type { Subscription } from './events.js'
import type { SignalOptions } from './internal/emitter.js'
import type { Link } from './internal/link.js'
import { EVENTS_WINDOW } from './internal/port-stream.js'
import { RemoteBroadcast } from './remote-broadcast.js'
import { RoomsError } from './errors.js'
import type { ScopeId, SessionEnd, SessionInfo } from '../worker/protocol.js'
import type { Announcement, EndpointAddr, EndpointId, SessionStats } from './wire.js'

/** The endpoint's own scope in the Worker. */
const OWN: ScopeId = 0

/**
 * The endpoint's own MoQ scope, `live.moq`: broadcasts for whoever connects, beside the rooms,
 * which decide about theirs.
 */
export class Moq {
  readonly #link: Link

  /** @internal */
  constructor(link: Link) {
    this.#link = link
  }

  /**
   * Publishes to all sessions of this scope, those that stand and those to come. A broadcast of
   * the same name is replaced.
   */
  async publish(name: string, broadcast: Broadcast): Promise<void> {
    await this.#link.call('publish', [OWN, name, broadcast.attach(this.#link)])
  }

  /** Withdraws a broadcast; false if there was none of that name. */
  unpublish(name: string): Promise<boolean> {
    return this.#link.call('unpublish', [OWN, name])
  }

  /** Names of what is published here. */
  publishedBroadcasts(): Promise<string[]> {
    return this.#link.call('publishedBroadcasts', [OWN])
  }

  /**
   * The session with a peer: the one that stands, or a new one within 10 s.
   * @param remote - its address (`live.addr()` there); an id alone does if a session stands or the
   *   public relays know it
   * @throws `CONNECT_FAILED`, `TIMEOUT`
   */
  async connect(
    remote: EndpointAddr | EndpointId,
    options: SignalOptions = {},
  ): Promise<MoqSession> {
    const addr = typeof remote === 'string' ? { id: remote } : remote
    const info = await this.#link.call('connect', [OWN, addr], options)
    return new MoqSession(this.#link, OWN, info.remoteId, info.version)
  }

  /**
   * Ends MoQ on this endpoint for good: peers get the code for leaving, and what is asked afterwards
   * is `CLOSED`. This ends the sessions of its rooms, too. `Live.close` does it by itself. Idempotent.
   */
  async shutdown(): Promise<void> {
    await this.#link.call('moqShutdown', [])
  }

  /**
   * Sessions that others open. With `Live.spawn({ moq: { accept: 'manual' } })` each waits for
   * `accept()`, and is rejected after 10 s without a decision; otherwise all are accepted. A reader
   * that is too slow loses the oldest: see {@link IncomingSession.skipped}.
   */
  incomingSessions(options: SignalOptions = {}): Subscription<IncomingSession> {
    const link = this.#link
    return link.stream('incomingSessions', [], {
      window: EVENTS_WINDOW,
      map: (wire: { pending: number; remoteId: EndpointId; skipped: number }) =>
        new IncomingSession(link, wire.pending, wire.remoteId, wire.skipped),
      ...options,
    })
  }
}

/** Somebody wants a session; nothing has been announced to it yet. */
export class IncomingSession {
  /** Who it is. */
  readonly remoteId: EndpointId
  /** How many sessions were skipped right before this one, because they were read too slowly. */
  readonly skipped: number
  readonly #link: Link
  readonly #pending: number

  /** @internal */
  constructor(link: Link, pending: number, remoteId: EndpointId, skipped: number) {
    this.#link = link
    this.#pending = pending
    this.remoteId = remoteId
    this.skipped = skipped
  }

  /** Lets it in. Throws `SESSION_CLOSED` when it was decided before, or is gone. */
  async accept(): Promise<MoqSession> {
    const taken = await this.#link.call('decideIncoming', [this.#pending, true])
    const info = await this.#link.call('sessionInfo', [OWN, this.remoteId])
    if (!taken || !info) {
      throw new RoomsError('SESSION_CLOSED', `the session of ${this.remoteId} is gone`, {
        details: { code: 0, reason: 'gone before it was accepted' },
      })
    }
    return new MoqSession(this.#link, OWN, info.remoteId, info.version)
  }

  /** Turns it away, with close code 1. */
  async reject(): Promise<void> {
    await this.#link.call('decideIncoming', [this.#pending, false])
  }
}

/**
 * The session with one peer in one scope. A value: it names the session and holds nothing, and
 * after a reconnect it means the new one.
 */
export class MoqSession {
  /** The peer. */
  readonly remoteId: EndpointId
  /** The protocol spoken, such as `moq-lite-06`; undefined where it was not told. */
  readonly version: string | undefined
  readonly #link: Link
  readonly #scope: ScopeId
  #closed: Promise<SessionEnd> | undefined

  /** @internal */
  constructor(link: Link, scope: ScopeId, remoteId: EndpointId, version?: SessionInfo['version']) {
    this.#link = link
    this.#scope = scope
    this.remoteId = remoteId
    this.version = version
  }

  /**
   * A broadcast of the peer; waits until it is announced.
   * @throws `SESSION_CLOSED` when the session ends before
   */
  async subscribe(name: string, options: SignalOptions = {}): Promise<RemoteBroadcast> {
    await this.#link.call('waitBroadcast', [this.#scope, this.remoteId, name], options)
    return new RemoteBroadcast(this.#link, this.#scope, this.remoteId, name)
  }

  /**
   * Publishes to all sessions of this session's scope, as {@link Moq.publish} and `room.publish` do:
   * what one peer can read, the others of the scope can read as well.
   */
  async publish(name: string, broadcast: Broadcast): Promise<void> {
    await this.#link.call('publish', [this.#scope, name, broadcast.attach(this.#link)])
  }

  /** What the peer announces: first what is there, then each that comes and goes. */
  announced(options: SignalOptions = {}): Subscription<Announcement> {
    return this.#link.stream('announced', [this.#scope, this.remoteId], {
      window: EVENTS_WINDOW,
      map: (announcement: Announcement) => announcement,
      ...options,
    })
  }

  /** Counters of the connection. Throws `SESSION_CLOSED` when there is none. */
  async stats(): Promise<SessionStats> {
    const stats = await this.#link.call('sessionStats', [this.#scope, this.remoteId])
    if (stats) return stats
    throw new RoomsError('SESSION_CLOSED', `there is no session with ${this.remoteId}`, {
      details: { code: 0, reason: 'not connected' },
    })
  }

  /**
   * Closes the session for both sides.
   * @param code - told to the peer, a 32-bit number; default 0
   */
  async close(code = 0, reason = ''): Promise<void> {
    await this.#link.call('closeSession', [this.#scope, this.remoteId, code, reason])
  }

  /**
   * Settles when the session has ended, with the code and the reason of whoever ended it; at once for
   * one that has ended. Never rejects.
   */
  get closed(): Promise<{ readonly code: number; readonly reason: string }> {
    this.#closed ??= this.#link
      .call('sessionClosed', [this.#scope, this.remoteId])
      .catch((error: Error) => ({ code: 0, reason: error.message }))
    return this.#closed
  }

  /** The same as {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
