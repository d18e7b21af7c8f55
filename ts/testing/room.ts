/**
 * A room of a core in TypeScript: presence, chat and channels among those who have a session of its
 * scope. Every two of a room have one: whoever comes dials those whom its ticket names, and then
 * those whom these know.
 */
import type {
  BroadcastHandle,
  RoomHandle,
  RoomOptions,
  StreamHandle,
} from '../worker/core-module.js'
import { RoomTicket } from '../src/index.js'
import type {
  ChatMessage,
  Diagnosis,
  EndReason,
  EndpointId,
  Json,
  LeftReason,
  Peer,
  PeerField,
  RoomStats,
  Status,
  WireEvent,
} from '../src/wire.js'
import type { TestCore } from './core.js'
import { Scope, type ScopeOwner, type Session } from './session.js'
import { EVENTS_CAP, Stream, fail } from './stream.js'
import { MAX_DATAGRAM } from './track.js'

// As in the core.
const SILENCE_MS = 9_000
const GRACE_MS = 20_000
const FADE_MS = 12_000
const REDIAL_MS = 3_000
const HISTORY_MS = 300_000
const MAX_HISTORY = 1_000
const CHANNEL_MS = 10_000
const MAX_CHANNELS = 32
const MAX_BROADCASTS = 32
const MAX_NAME = 64
const MAX_PRESENCE = 2_048
const MAX_STATE = 3_072
const MAX_CHAT = 4_096
const MAX_CHANNEL_NAME = 48
const MAX_MESSAGE = 65_536

/** What a peer says of itself. */
interface State {
  readonly displayName?: string
  readonly presence?: Json
}

interface ChannelMessage {
  readonly name: string
  readonly json: string
  readonly at: number
  readonly to: EndpointId | undefined
}

interface Greeting {
  readonly state: State
  readonly members: readonly EndpointId[]
  readonly chat: readonly ChatMessage[]
  readonly channels: readonly ChannelMessage[]
}

interface Member {
  peer: Peer
  /** What it publishes, and which instance of it. */
  readonly broadcasts: Map<string, number>
  /** When something was received, on the clock of silence. */
  heard: number
  /** When broadcasts that were lost with the session are given up. */
  fadeAt: number | undefined
}

interface OpenChannel {
  readonly streams: Set<Stream<{ from: EndpointId; json: string }>>
}

export class TestRoom implements RoomHandle, ScopeOwner {
  readonly #core: TestCore
  readonly #topic: string
  readonly #autoSubscribe: boolean
  readonly #scope: Scope
  readonly #members = new Map<EndpointId, Member>()
  /** Whom to dial, and not before when. */
  readonly #known = new Map<EndpointId, number>()
  readonly #failed = new Map<EndpointId, number>()
  readonly #readers = new Set<EventStream>()
  readonly #channels = new Map<string, OpenChannel>()
  readonly #joinedAt: number
  #state: State = {}
  #history: ChatMessage[] = []
  readonly #seen = new Set<string>()
  #own: ChatMessage[] = []
  #sent: ChannelMessage[] = []
  #received: (ChannelMessage & { from: EndpointId })[] = []
  #messages = 0
  #silence = new SilenceClock()
  #here = false
  #left = false

  constructor(
    core: TestCore,
    topic: string,
    bootstrap: readonly EndpointId[],
    { displayName, presence, autoSubscribe }: RoomOptions,
  ) {
    this.#core = core
    this.#topic = topic
    this.#autoSubscribe = autoSubscribe
    this.#joinedAt = core.world.clock.wall
    this.#setState({
      ...(displayName === undefined ? {} : { displayName }),
      ...(presence === undefined ? {} : { presence: parsePresence(presence) }),
    })
    for (const id of bootstrap) if (id !== core.id) this.#known.set(id, 0)
    this.#scope = new Scope(core, topic, this)
    this.#silence.set(core.world.isOnline(core.id), this.#now)
  }

  id(): string {
    return this.#topic
  }

  self(): Peer {
    const broadcasts = this.#scope.publishedBroadcasts()
    return { id: this.#core.id, ...this.#state, broadcasts, joinedAt: this.#joinedAt }
  }

  peers(): Peer[] {
    return [...this.#members.values()].map(({ peer }) => peer)
  }

  events(): StreamHandle {
    const stream = new EventStream(this, () => this.#readers.delete(stream))
    for (const member of this.#members.values()) {
      for (const event of this.#arrival(member)) stream.push(event)
    }
    if (this.#left) stream.end()
    else this.#readers.add(stream)
    return stream
  }

  async ticket(): Promise<string> {
    const others = [...this.#members.keys()].slice(0, 7)
    return new RoomTicket(this.#topic, [this.#core.id, ...others]).toString()
  }

  async publish(name: string, broadcast: BroadcastHandle): Promise<void> {
    checkName('the broadcast', name, MAX_NAME)
    if (name === 'chat' || name.startsWith('~')) {
      fail('INVALID_ARGUMENT', `the broadcast '${name}': that name is the room's own`)
    }
    const names = this.#scope.publishedBroadcasts()
    if (!names.includes(name) && names.length >= MAX_BROADCASTS - 1) {
      fail(
        'INVALID_ARGUMENT',
        `a peer publishes at most ${MAX_BROADCASTS} broadcasts, chat included`,
      )
    }
    this.#scope.publish(name, broadcast)
  }

  async unpublish(name: string): Promise<boolean> {
    return this.#scope.unpublish(name)
  }

  async setDisplayName(name?: string): Promise<void> {
    const { displayName: _, ...rest } = this.#state
    this.#setState(name === undefined ? rest : { ...rest, displayName: name })
  }

  async setPresence(json?: string): Promise<void> {
    const { presence: _, ...rest } = this.#state
    this.#setState(json === undefined ? rest : { ...rest, presence: parsePresence(json) })
  }

  async sendChat(text: string): Promise<ChatMessage> {
    if (text === '') fail('INVALID_ARGUMENT', 'a chat message needs at least one character')
    checkSize('the chat message', text, MAX_CHAT)
    const { wall } = this.#core.world.clock
    this.#messages += 1
    const id = `${this.#core.id}-${wall}-${this.#messages}`
    const message: ChatMessage = { peer: this.self(), text, timestamp: wall, id }
    this.#own.push(message)
    this.#remember(message)
    this.#toAll(text.length, (there, from) => there.#hearChat(from, message))
    return message
  }

  chatHistory(): ChatMessage[] {
    return this.#history
  }

  async setChatPublisher(): Promise<void> {
    fail(
      'UNSUPPORTED_RUNTIME',
      'a TestNetwork does not have setChatPublisher: chat has its own way',
      {
        feature: 'setChatPublisher',
      },
    )
  }

  async channelSend(
    name: string,
    json: string,
    to: EndpointId | undefined,
    datagram: boolean,
  ): Promise<void> {
    checkSize('the message', json, datagram ? MAX_DATAGRAM : MAX_MESSAGE)
    this.#openChannel(name)
    const message: ChannelMessage = { name, json, at: this.#now, to }
    if (!datagram) this.#sent = [...recent(this.#sent, this.#now), message]
    for (const [remote, session] of this.#scope.sessions) {
      if (to !== undefined && to !== remote) continue
      const run = this.#atRoom((there, from) => there.#hearChannel(from, message))
      if (datagram) session.datagram(json.length, run)
      else session.send(json.length, run)
    }
  }

  async channelMessages(name: string): Promise<StreamHandle> {
    const { streams, early } = this.#openChannel(name)
    const stream = new Stream<{ from: EndpointId; json: string }>({
      onCancel: () => streams.delete(stream),
    })
    for (const { from, json } of early) stream.push({ from, json })
    streams.add(stream)
    return stream
  }

  scope(): Scope {
    return this.#scope
  }

  async stats(): Promise<RoomStats> {
    const sessions = this.#scope.sessions.size
    return { peers: this.#members.size, sessions, neighbors: sessions, refused: 0 }
  }

  async diagnose(): Promise<Diagnosis[]> {
    return [...this.#members.keys()].map((peer) => this.#diagnosis(peer))
  }

  async leave(): Promise<void> {
    if (this.#left) return
    this.depart()
    this.#left = true
    this.#core.rooms.delete(this.#topic)
    this.#scope.close(0, 'left')
    for (const reader of this.#readers) reader.end()
    for (const { streams } of this.#channels.values()) for (const stream of streams) stream.end()
  }

  free(): void {}

  // What the endpoint tells it.

  /** Whether others are looked for and let in: not after a goodbye. */
  get here(): boolean {
    return this.#here
  }

  /** Looks for the others, also after a goodbye. */
  enter(): void {
    this.#here = true
    this.#reach()
  }

  /** Says goodbye. What is known is kept: it may be taken back. */
  depart(): void {
    this.#here = false
    this.#toAll(0, (there, from) => there.#remove(from, 'left'))
    for (const session of this.#scope.sessions.values()) session.close({ code: 0, reason: 'left' })
  }

  setOnline(online: boolean, status: Status): void {
    this.#silence.set(online, this.#now)
    this.#emit({ type: 'status', status })
  }

  tick(): void {
    this.#scope.tick()
    const silence = this.#silence.at(this.#now)
    for (const [id, member] of this.#members) {
      const session = this.#scope.sessions.get(id)
      if (session && session.heardAt === this.#now) member.heard = silence
      if (silence - member.heard > SILENCE_MS) this.#remove(id, 'timeout')
      else if (member.fadeAt !== undefined && this.#now > member.fadeAt) this.#sync(id, new Map())
    }
    for (const [id, session] of this.#scope.sessions) {
      if (session.heardAt === this.#now && !this.#members.has(id)) this.#ask(session)
    }
    this.#reach()
  }

  // What the scope tells it.

  greet(to: EndpointId): Greeting {
    this.#own = this.#own.filter(
      ({ timestamp }) => this.#core.world.clock.wall - timestamp <= HISTORY_MS,
    )
    this.#sent = recent(this.#sent, this.#now)
    return {
      state: this.#state,
      members: [...this.#members.keys()],
      chat: this.#own,
      channels: this.#sent.filter((message) => message.to === undefined || message.to === to),
    }
  }

  greeted(session: Session, greeting: unknown): void {
    const { state, members, chat, channels } = greeting as Greeting
    const id = session.remote
    this.#known.set(id, 0)
    this.#failed.delete(id)
    const member = this.#members.get(id)
    if (member) {
      member.fadeAt = undefined
      this.#hearState(id, state)
      this.#sync(id, session.announced)
    } else {
      this.#join(id, state, session.announced)
    }
    for (const message of chat) this.#hearChat(id, message)
    for (const message of channels) this.#hearChannel(id, message)
    for (const other of members) {
      if (other !== this.#core.id && !this.#known.has(other)) this.#known.set(other, 0)
    }
    this.#reach()
  }

  announced(session: Session): void {
    this.#sync(session.remote, session.announced)
  }

  ended(session: Session): void {
    const member = this.#members.get(session.remote)
    if (member) member.fadeAt = this.#now + FADE_MS
  }

  // Inside.

  get #now(): number {
    return this.#core.world.clock.now
  }

  #diagnosis(peer: EndpointId): Diagnosis {
    const stats = this.#scope.sessionStats(peer)
    const version = this.#scope.sessionInfo(peer)?.version
    const failedDials = this.#failed.get(peer) ?? 0
    const heard = this.#members.get(peer)?.heard ?? 0
    return {
      peer,
      path: stats?.path ?? 'none',
      ...(stats?.rttMs === undefined ? {} : { rttMs: stats.rttMs }),
      sessions: stats ? 1 : 0,
      ...(version === undefined ? {} : { version }),
      bytesSent: stats?.bytesSent ?? 0,
      bytesReceived: stats?.bytesReceived ?? 0,
      lastHeardMs: Math.round(this.#silence.at(this.#now) - heard),
      refused: 0,
      failedDials,
      advice: stats ? '' : this.#advice(failedDials),
    }
  }

  #advice(failedDials: number): string {
    if (!this.#core.world.isOnline(this.#core.id)) {
      return 'this side has lost its relay: it reconnects by itself'
    }
    return failedDials > 0
      ? 'the peer cannot be dialled: check that its relay can be reached from here'
      : 'the session is being set up'
  }

  #reach(): void {
    if (!this.#here || this.#scope.over) return
    for (const [id, notBefore] of this.#known) {
      const busy = this.#scope.sessions.has(id) || this.#scope.dials.has(id)
      if (busy || this.#now < notBefore) continue
      this.#scope.dial(id).catch(() => {
        this.#failed.set(id, (this.#failed.get(id) ?? 0) + 1)
        if (this.#known.has(id)) this.#known.set(id, this.#now + REDIAL_MS)
      })
    }
  }

  /** Somebody who was gone by its silence is heard again: who is it now? */
  #ask(session: Session): void {
    const { id } = this.#core
    const answer = this.#atRoom((there) => {
      const greeting = there.greet(id)
      there.#scope.sessions.get(id)?.send(0, (here) => this.greeted(here, greeting))
    })
    session.send(0, answer)
  }

  #setState(state: State): void {
    const { displayName, presence } = state
    if (displayName !== undefined) checkName('the display name', displayName, MAX_NAME, false)
    const json = presence === undefined ? '' : JSON.stringify(presence)
    checkSize('presence', json, MAX_PRESENCE)
    checkSize('name and presence', json + (displayName ?? ''), MAX_STATE)
    this.#state = state
    this.#toAll(json.length, (there, from) => there.#hearState(from, state))
  }

  /** Tells all sessions something, and the rooms at their other ends take it. */
  #toAll(bytes: number, run: (there: TestRoom, from: EndpointId) => void): void {
    // Nobody is there yet while the room is made.
    for (const session of this.#scope?.sessions.values() ?? []) {
      session.send(bytes, this.#atRoom(run))
    }
  }

  #atRoom(run: (there: TestRoom, from: EndpointId) => void): (there: Session) => void {
    const { id } = this.#core
    return (there) => {
      const room = there.scope.core.rooms.get(this.#topic)
      if (room) run(room, id)
    }
  }

  #join(id: EndpointId, state: State, broadcasts: ReadonlyMap<string, number>): void {
    const joinedAt = this.#core.world.clock.wall
    const names = [...broadcasts.keys()].toSorted()
    const peer: Peer = { id, ...state, broadcasts: names, joinedAt }
    const heard = this.#silence.at(this.#now)
    const member: Member = { peer, broadcasts: new Map(broadcasts), heard, fadeAt: undefined }
    this.#members.set(id, member)
    for (const event of this.#arrival(member)) this.#emit(event)
  }

  /** A peer, and what it publishes, as those hear of it who did not know it. */
  #arrival({ peer }: Member): WireEvent[] {
    const names = peer.broadcasts
    return [
      { type: 'peer-joined', peer },
      ...(names.length > 0 ? [{ type: 'broadcast-announced' as const, peer, names }] : []),
      ...this.#subscribed(peer, names),
    ]
  }

  #subscribed(peer: Peer, names: readonly string[]): WireEvent[] {
    if (!this.#autoSubscribe) return []
    return names.map((name) => ({ type: 'broadcast-subscribed', peer, name }))
  }

  #ended(peer: Peer, names: Iterable<string>, reason: EndReason): WireEvent[] {
    if (!this.#autoSubscribe) return []
    return [...names].map((name) => ({ type: 'broadcast-ended', peer, name, reason }))
  }

  #remove(id: EndpointId, reason: LeftReason): void {
    const member = this.#members.get(id)
    if (reason === 'left') this.#known.delete(id)
    if (!member) return
    this.#members.delete(id)
    const { peer } = member
    for (const event of this.#ended(peer, peer.broadcasts, 'peer-left')) this.#emit(event)
    this.#emit({ type: 'peer-left', peer, reason })
  }

  #hearState(id: EndpointId, state: State): void {
    const member = this.#members.get(id)
    if (!member) return
    const { broadcasts, joinedAt } = member.peer
    const changed = (['displayName', 'presence'] as const).filter(
      (field) => JSON.stringify(state[field]) !== JSON.stringify(member.peer[field]),
    )
    this.#update(member, { id, ...state, broadcasts, joinedAt }, changed)
  }

  #update(member: Member, peer: Peer, changed: readonly PeerField[]): void {
    if (changed.length === 0) return
    member.peer = peer
    this.#emit({ type: 'peer-updated', peer, changed })
  }

  /** Brings what is known of a peer's broadcasts up to date. */
  #sync(id: EndpointId, now: ReadonlyMap<string, number>): void {
    const member = this.#members.get(id)
    if (!member) return
    const was = new Map(member.broadcasts)
    member.broadcasts.clear()
    for (const [name, instance] of now) member.broadcasts.set(name, instance)
    const gone = [...was.keys()].filter((name) => now.get(name) !== was.get(name))
    const fresh = [...now.keys()].filter((name) => now.get(name) !== was.get(name)).toSorted()
    const names = [...now.keys()].toSorted()
    for (const event of this.#ended(member.peer, gone, 'unpublished')) this.#emit(event)
    if (names.join('/') !== member.peer.broadcasts.join('/')) {
      this.#update(member, { ...member.peer, broadcasts: names }, ['broadcasts'])
    }
    const { peer } = member
    if (fresh.length > 0) this.#emit({ type: 'broadcast-announced', peer, names: fresh })
    for (const event of this.#subscribed(peer, fresh)) this.#emit(event)
  }

  #hearChat(from: EndpointId, { id, text, timestamp }: ChatMessage): void {
    const peer = this.#members.get(from)?.peer
    if (!peer || this.#seen.has(id)) return
    const message = { peer, text, timestamp, id }
    this.#remember(message)
    this.#emit({ type: 'chat-message', ...message })
  }

  #remember(message: ChatMessage): void {
    this.#seen.add(message.id)
    this.#history = [...this.#history, message]
      .toSorted((one, other) => one.timestamp - other.timestamp)
      .slice(-MAX_HISTORY)
  }

  #openChannel(name: string): OpenChannel & { early: { from: EndpointId; json: string }[] } {
    const open = this.#channels.get(name)
    if (open) return { ...open, early: [] }
    checkName('the channel', name, MAX_CHANNEL_NAME)
    if (this.#channels.size >= MAX_CHANNELS) {
      fail('INVALID_ARGUMENT', `a room has at most ${MAX_CHANNELS} channels`)
    }
    const channel: OpenChannel = { streams: new Set() }
    this.#channels.set(name, channel)
    this.#received = recent(this.#received, this.#now)
    return { ...channel, early: this.#received.filter((message) => message.name === name) }
  }

  #hearChannel(from: EndpointId, message: ChannelMessage): void {
    const { name, json } = message
    const open = this.#channels.get(name)
    if (open) for (const stream of open.streams) stream.push({ from, json })
    else this.#received = [...recent(this.#received, this.#now), { ...message, from }]
  }

  #emit(event: WireEvent): void {
    for (const reader of this.#readers) reader.push(event)
  }
}

/** A reader of events. One that is too slow is told so, and then what is now. */
class EventStream extends Stream<WireEvent> {
  readonly #room: TestRoom
  /** Whom this reader knows, by what was given to it. */
  readonly #told = new Map<EndpointId, Peer>()
  #missed = 0

  constructor(room: TestRoom, onCancel: () => void) {
    super({ onCancel, cap: Number.POSITIVE_INFINITY, onTake: (event) => this.#take(event) })
    this.#room = room
  }

  override push(event: WireEvent): void {
    if (this.#missed === 0 && this.items.length < EVENTS_CAP) return super.push(event)
    this.#missed += this.items.length + 1
    this.items = []
    this.wake()
  }

  protected override get ready(): boolean {
    if (this.#missed > 0) this.#catchUp()
    return super.ready
  }

  #catchUp(): void {
    this.items = [{ type: 'lagged', missed: this.#missed }]
    this.#missed = 0
    const now = new Map(this.#room.peers().map((peer) => [peer.id, peer]))
    for (const [id, peer] of this.#told) {
      if (now.get(id)?.joinedAt === peer.joinedAt) continue
      this.items.push({ type: 'peer-left', peer, reason: 'timeout' })
    }
    for (const [id, peer] of now) {
      const before = this.#told.get(id)
      if (before?.joinedAt !== peer.joinedAt) this.items.push({ type: 'peer-joined', peer })
      else if (before !== peer) {
        const changed: PeerField[] = ['displayName', 'presence', 'broadcasts']
        this.items.push({ type: 'peer-updated', peer, changed })
      }
    }
  }

  #take(event: WireEvent): void {
    if (event.type === 'peer-left') this.#told.delete(event.peer.id)
    else if (event.type === 'peer-joined' || event.type === 'peer-updated') {
      this.#told.set(event.peer.id, event.peer)
    }
  }
}

/** Counts only while this endpoint is connected, and not for {@link GRACE_MS} after a return. */
class SilenceClock {
  #counted = 0
  #since: number | undefined
  #was = false

  at(now: number): number {
    return this.#counted + (this.#since === undefined ? 0 : Math.max(0, now - this.#since))
  }

  set(online: boolean, now: number): void {
    this.#counted = this.at(now)
    this.#since = online ? now + (this.#was ? GRACE_MS : 0) : undefined
    this.#was = true
  }
}

function recent<T extends { readonly at: number }>(messages: readonly T[], now: number): T[] {
  return messages.filter(({ at }) => now - at <= CHANNEL_MS)
}

function parsePresence(json: string): Json {
  checkSize('presence', json, MAX_PRESENCE)
  return JSON.parse(json) as Json
}

function checkSize(what: string, text: string, limit: number): void {
  const size = new TextEncoder().encode(text).byteLength
  if (size > limit) fail('TOO_LARGE', `${what} has ${size} bytes, at most ${limit} fit`, { limit })
}

function checkName(what: string, name: string, limit: number, path = true): void {
  // eslint-disable-next-line no-control-regex
  if (name === '' || (path && (name.startsWith('.') || /[/*\u0000-\u001f\u007f]/.test(name)))) {
    fail(
      'INVALID_ARGUMENT',
      `${what} '${name}': use 1 to ${limit} bytes without '/', '*' and control characters, and no dot in front`,
    )
  }
  checkSize(what, name, limit)
}
