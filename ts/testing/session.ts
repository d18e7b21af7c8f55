/** MoQ of a core in TypeScript: sessions between two endpoints, for each scope of its own. */
import type {
  BroadcastHandle,
  CancelHandle,
  ReadOptions,
  ScopeHandle,
  StreamHandle,
} from '../worker/core-module.js'
import type { SessionEnd, SessionInfo } from '../worker/protocol.js'
import { RoomsError } from '../src/errors.js'
import { deferred } from '../src/internal/link.js'
import type { Announcement, Datagram, EndpointId, Frame, SessionStats } from '../src/wire.js'
import type { TestCore } from './core.js'
import { Changes, Stream, fail } from './stream.js'
import { Feed, Reader, type TestBroadcast } from './track.js'

/** What everybody speaks here, in words only. */
const VERSION = 'moq-lite-06'
const DIAL_MS = 10_000
/** A session ends after so long without a way, in ms. */
const IDLE_MS = 30_000
/** What every message costs besides its payload, in bytes. */
const OVERHEAD = 48
const NEWEST: ReadOptions = { priority: 128, maxAgeMs: 0, ordered: true }

/** The code with which MoQ as a whole ends. */
export const CODE_LEAVING = 64
export const CODE_REJECTED = 1

/** Ends one call. */
export class TestCancel implements CancelHandle {
  readonly #cancelled = deferred<never>()

  constructor() {
    this.#cancelled.promise.catch(() => undefined)
  }

  /** The promise, or its end by `cancel`. */
  until<T>(promise: Promise<T>): Promise<T> {
    return Promise.race([promise, this.#cancelled.promise])
  }

  cancel(): void {
    this.#cancelled.reject(new RoomsError('CLOSED', 'the call is closed'))
  }

  free(): void {}
}

/** One end of a session. */
export class Session {
  readonly scope: Scope
  readonly remote: EndpointId
  /** The other end. */
  other!: Session
  /** What the other end publishes, and which instance of it. */
  readonly announced: Map<string, number> = new Map()
  readonly readers: Set<{ end(error?: RoomsError): void }> = new Set()
  /** Ends what the other end reads here. */
  readonly feeds: Set<() => void> = new Set()
  over: SessionEnd | undefined
  heardAt: number
  #sent = 0
  #received = 0
  #packets = 0

  constructor(scope: Scope, remote: EndpointId) {
    this.scope = scope
    this.remote = remote
    this.heardAt = scope.core.world.clock.now
  }

  static pair(one: Scope, other: Scope): Session {
    const session = new Session(one, other.core.id)
    session.other = new Session(other, one.core.id)
    session.other.other = session
    return session
  }

  /** Runs it at the other end, in order; not if that has ended. */
  send(bytes: number, run: (there: Session) => void): void {
    if (this.over) return
    this.#sent += bytes + OVERHEAD
    this.scope.core.world.send(this.scope.core.id, this.remote, this.#arrive(bytes, run))
  }

  datagram(bytes: number, run: (there: Session) => void): void {
    if (this.over) return
    this.#sent += bytes + OVERHEAD
    this.scope.core.world.datagram(this.scope.core.id, this.remote, this.#arrive(bytes, run))
  }

  #arrive(bytes: number, run: (there: Session) => void): () => void {
    const { other } = this
    return () => {
      if (other.over) return
      other.#received += bytes + OVERHEAD
      other.#packets += 1
      run(other)
    }
  }

  /** What the other end publishes has changed. */
  hear(name: string, instance: number | undefined): void {
    if (instance === undefined) this.announced.delete(name)
    else this.announced.set(name, instance)
    this.scope.heard(this, name, instance)
  }

  close(end: SessionEnd): void {
    this.send(0, (there) => there.end(end))
    this.end(end)
  }

  /** This end is over, whatever the other one knows. */
  end(end: SessionEnd): void {
    if (this.over) return
    this.over = end
    const error = new RoomsError(
      'SESSION_CLOSED',
      `the session with ${this.remote} ended: ${end.reason || `code ${end.code}`}`,
      { details: end },
    )
    for (const reader of this.readers) reader.end(error)
    for (const stop of this.feeds) stop()
    this.scope.ended(this, end)
  }

  tick(): void {
    const { world, id } = this.scope.core
    if (world.reachable(this.remote, id)) this.heardAt = world.clock.now
    else if (world.clock.now - this.heardAt > IDLE_MS) this.end({ code: 0, reason: 'timed out' })
  }

  get stats(): SessionStats {
    return {
      rttMs: this.scope.core.world.rttMs,
      bytesSent: this.#sent,
      bytesReceived: this.#received,
      bytesLost: 0,
      packetsReceived: this.#packets,
      path: 'relay',
    }
  }
}

/** What each end begins a session with. */
interface Greeting {
  readonly broadcasts: readonly (readonly [name: string, instance: number])[]
  /** The room's part. */
  readonly own: unknown
}

/** What a room adds to its scope. */
export interface ScopeOwner {
  /** What a new session begins with. */
  greet(to: EndpointId): unknown
  greeted(session: Session, greeting: unknown): void
  announced(session: Session, name: string, instance: number | undefined): void
  ended(session: Session): void
}

/** Broadcasts and sessions of one scope. */
export class Scope implements ScopeHandle {
  readonly core: TestCore
  /** The topic, or empty for the endpoint's own. */
  readonly key: string
  readonly sessions: Map<EndpointId, Session> = new Map()
  readonly dials: Map<EndpointId, ReturnType<typeof deferred<void>>> = new Map()
  readonly #owner: ScopeOwner | undefined
  readonly #published = new Map<string, { broadcast: TestBroadcast; instance: number }>()
  readonly #ends = new Map<EndpointId, SessionEnd>()
  readonly #announcements = new Set<{
    remote: EndpointId | undefined
    stream: Stream<Announcement>
  }>()
  readonly #changes = new Changes()
  #instances = 0
  #over = false

  constructor(core: TestCore, key: string, owner?: ScopeOwner) {
    this.core = core
    this.key = key
    this.#owner = owner
  }

  get over(): boolean {
    return this.#over
  }

  publish(name: string, handle: BroadcastHandle): void {
    this.#check()
    const broadcast = handle as TestBroadcast
    const instance = (this.#instances += 1)
    this.#published.set(name, { broadcast, instance })
    const withdraw = (): void => {
      broadcast.withdraw.delete(withdraw)
      if (this.#published.get(name)?.instance === instance) this.unpublish(name)
    }
    broadcast.withdraw.add(withdraw)
    this.#tell(name, instance)
  }

  unpublish(name: string): boolean {
    if (!this.#published.delete(name)) return false
    this.#tell(name, undefined)
    return true
  }

  publishedBroadcasts(): string[] {
    return [...this.#published.keys()].toSorted()
  }

  async connect({ id }: { id: EndpointId }, cancel: TestCancel): Promise<void> {
    await cancel.until(this.dial(id))
  }

  sessionInfo(remote: EndpointId): SessionInfo | undefined {
    return this.sessions.has(remote) ? { remoteId: remote, version: VERSION } : undefined
  }

  sessionStats(remote: EndpointId): SessionStats | undefined {
    return this.sessions.get(remote)?.stats
  }

  async sessionClosed(remote: EndpointId, cancel: TestCancel): Promise<SessionEnd> {
    const session = this.sessions.get(remote)
    await cancel.until(this.#until(() => !session || session.over !== undefined))
    return session?.over ?? this.#ends.get(remote) ?? { code: 0, reason: 'not connected' }
  }

  closeSession(remote: EndpointId, code: number, reason: string): void {
    this.sessions.get(remote)?.close({ code, reason })
  }

  announced(remote?: EndpointId): StreamHandle {
    const entry = {
      remote,
      stream: new Stream<Announcement>({ onCancel: () => this.#announcements.delete(entry) }),
    }
    for (const [remoteId, { announced }] of this.sessions) {
      if (remote !== undefined && remote !== remoteId) continue
      for (const name of announced.keys()) entry.stream.push({ remoteId, name, active: true })
    }
    this.#announcements.add(entry)
    return entry.stream
  }

  async waitBroadcast(remote: EndpointId, name: string, cancel: TestCancel): Promise<void> {
    const session = this.sessions.get(remote)
    const there = (): boolean => {
      if (this.sessions.get(remote)?.announced.has(name)) return true
      this.#check()
      // In a room a peer comes back by itself; beside the rooms nobody does.
      if (this.#owner || (session && !session.over)) return false
      throw sessionClosed(remote, session?.over ?? this.#ends.get(remote))
    }
    await cancel.until(this.#until(there))
  }

  async broadcastClosed(remote: EndpointId, name: string, cancel: TestCancel): Promise<void> {
    const instance = (): number | undefined => this.sessions.get(remote)?.announced.get(name)
    const first = instance()
    await cancel.until(this.#until(() => first === undefined || instance() !== first))
  }

  async readTrack(
    remote: EndpointId,
    name: string,
    track: string,
    options: ReadOptions,
  ): Promise<StreamHandle> {
    return this.#read(remote, name, track, options)
  }

  async readDatagrams(remote: EndpointId, name: string, track: string): Promise<StreamHandle> {
    const session = this.#session(remote)
    const reader = new Reader<Datagram>(session)
    session.send(0, (there) => {
      const found = there.scope.find(name, track)
      if (!found) return reader.tell(notAnnounced(name, track))
      reader.stop = () => {
        found.datagramReaders.delete(reader)
        there.feeds.delete(reader.stop)
        found.wake()
      }
      there.feeds.add(reader.stop)
      found.datagramReaders.add(reader)
      found.wake()
    })
    return reader.stream
  }

  async fetchGroup(
    remote: EndpointId,
    name: string,
    track: string,
    group: number,
  ): Promise<StreamHandle> {
    return this.#read(remote, name, track, { ...NEWEST, start: group }, group)
  }

  free(): void {}

  /** The session with a peer: the one that stands, or a new one. */
  dial(remote: EndpointId): Promise<void> {
    this.#check()
    const { world, id } = this.core
    if (this.sessions.has(remote)) return Promise.resolve()
    const known = this.dials.get(remote)
    if (known) return known.promise
    const dial = deferred<void>()
    this.dials.set(remote, dial)
    const settle = (): void => {
      if (this.dials.get(remote) === dial) this.dials.delete(remote)
    }
    dial.promise.then(settle, settle)
    if (remote === id || (!world.cores.has(remote) && world.reachable(id, remote))) {
      dial.reject(new RoomsError('CONNECT_FAILED', `${remote} is not on this network`))
      return dial.promise
    }
    world.send(id, remote, () => world.cores.get(remote)?.knock(this))
    world.clock.in(DIAL_MS, () =>
      dial.reject(new RoomsError('TIMEOUT', `${remote} did not answer within 10 s`)),
    )
    return dial.promise
  }

  /** Lets somebody in who has dialled: here at once, there when the word has come. */
  accept(from: Scope): void {
    const session = Session.pair(this, from)
    this.#install(session)
    const greeting = this.#greeting(from.core.id)
    session.send(0, (there) => {
      if (from.#over) return there.close({ code: CODE_LEAVING, reason: 'closed' })
      from.#install(there)
      from.dials.get(this.core.id)?.resolve()
      from.#greeted(there, greeting)
      const back = from.#greeting(this.core.id)
      there.send(0, (here) => this.#greeted(here, back))
    })
    this.dials.get(from.core.id)?.resolve()
  }

  /** Turns somebody away who has dialled. */
  refuse(from: Scope, error: RoomsError): void {
    const { world, id } = this.core
    world.send(id, from.core.id, () => from.dials.get(id)?.reject(error))
  }

  /** What a session heard of its other end. */
  heard(session: Session, name: string, instance: number | undefined): void {
    const active = instance !== undefined
    for (const { remote, stream } of this.#announcements) {
      if (remote !== undefined && remote !== session.remote) continue
      stream.push({ remoteId: session.remote, name, active })
    }
    this.#owner?.announced(session, name, instance)
    this.#changes.wake()
  }

  ended(session: Session, end: SessionEnd): void {
    this.#ends.set(session.remote, end)
    if (this.sessions.get(session.remote) === session) {
      this.sessions.delete(session.remote)
      for (const name of session.announced.keys()) {
        for (const { remote, stream } of this.#announcements) {
          if (remote !== undefined && remote !== session.remote) continue
          stream.push({ remoteId: session.remote, name, active: false })
        }
      }
      this.#owner?.ended(session)
    }
    this.#changes.wake()
  }

  find(name: string, track: string): ReturnType<TestBroadcast['tracks']['get']> {
    return this.#published.get(name)?.broadcast.tracks.get(track)
  }

  tick(): void {
    for (const session of this.sessions.values()) session.tick()
  }

  /** Ends all sessions. Nothing new is taken on. */
  close(code: number, reason: string): void {
    this.#over = true
    for (const session of this.sessions.values()) session.close({ code, reason })
    for (const { stream } of this.#announcements) stream.end()
    this.#changes.wake()
  }

  #install(session: Session): void {
    // Whoever dials again has lost the session that stands here.
    this.sessions.get(session.remote)?.end({ code: 0, reason: 'replaced' })
    this.sessions.set(session.remote, session)
    this.#changes.wake()
  }

  #greeting(to: EndpointId): Greeting {
    const broadcasts = [...this.#published].map(([name, { instance }]) => [name, instance] as const)
    return { broadcasts, own: this.#owner?.greet(to) }
  }

  #greeted(session: Session, { broadcasts, own }: Greeting): void {
    // What is in the greeting is known before anybody is told of anything in it.
    for (const [name, instance] of broadcasts) session.announced.set(name, instance)
    this.#owner?.greeted(session, own)
    for (const [name, instance] of broadcasts) session.hear(name, instance)
    this.#changes.wake()
  }

  #tell(name: string, instance: number | undefined): void {
    for (const session of this.sessions.values()) {
      session.send(name.length, (there) => there.hear(name, instance))
    }
  }

  /** Reads a track, or one group of it. */
  #read(
    remote: EndpointId,
    name: string,
    track: string,
    options: ReadOptions,
    group?: number,
  ): StreamHandle {
    const session = this.#session(remote)
    let feed: Feed | undefined
    const onTake = (item: Frame | { missed: number }): void => {
      if (!('data' in item)) return
      // Later the bytes are the reader's.
      const { byteLength } = item.data
      session.send(0, () => feed?.taken(byteLength))
    }
    const reader = new Reader<Frame | { missed: number }>(session, {
      cap: Number.POSITIVE_INFINITY,
      onTake,
    })
    session.send(0, (there) => {
      const found = there.scope.find(name, track)
      if (!found) return reader.tell(notAnnounced(name, track))
      if (group !== undefined && !found.groups.some(({ sequence }) => sequence === group)) {
        const what = `there is no group ${group} of ${name}/${track} (any more)`
        return reader.tell(new RoomsError('NOT_ANNOUNCED', what))
      }
      feed = new Feed(found, reader, options, group !== undefined)
      reader.stop = () => {
        there.feeds.delete(reader.stop)
        feed?.stop()
      }
      there.feeds.add(reader.stop)
    })
    return reader.stream
  }

  /** Looks again at each change until it is so. */
  async #until(so: () => boolean): Promise<void> {
    while (!so()) await this.#changes.next()
  }

  #session(remote: EndpointId): Session {
    this.#check()
    return this.sessions.get(remote) ?? fail('SESSION_CLOSED', `there is no session with ${remote}`)
  }

  #check(): void {
    if (this.#over) fail('CLOSED', this.key ? 'this room is closed' : 'MoQ was shut down')
  }
}

function sessionClosed(remote: EndpointId, end: SessionEnd | undefined): RoomsError {
  return new RoomsError('SESSION_CLOSED', `the session with ${remote} ended`, {
    details: end ?? { code: 0, reason: 'not connected' },
  })
}

function notAnnounced(name: string, track: string): RoomsError {
  return new RoomsError('NOT_ANNOUNCED', `there is no track ${name}/${track}`)
}
