/**
 * A core in TypeScript, for tests of the boundary alone: one endpoint, no network. Rooms do what
 * their chat tells them (`/join bob`), broadcasts are read back by their own publisher.
 */
import type {
  BroadcastHandle,
  CoreHandle,
  CoreModule,
  CoreOptions,
  GroupHandle,
  ReadOptions,
  RoomHandle,
  RoomOptions,
  ScopeHandle,
  StateRoomHandle,
  StateRoomHow,
  StateRoomOptions,
  StreamHandle,
  TrackHandle,
} from '../../worker/core-module.js'
import type { ChatMessage, CoreStats, Frame, LogLevel, Peer, WireEvent } from '../../src/wire.js'
import { TestCancel } from '../../testing/session.js'
import { EVENTS_CAP, Stream, fail } from '../../testing/stream.js'
import type { Asks } from '../../worker/asks.js'
import { FakeStateRoom } from './fake-state-room.js'

const SELF_ID = 'aa'.repeat(32)
/** A dial to it takes for ever. */
export const SILENT_ID: string = 'dd'.repeat(32)
const FRAMES_CAP = 1_024

function trap(): never {
  // (module (func (export "f") unreachable))
  const bytes = Uint8Array.from([
    0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 5, 1, 3,
    0, 0, 11,
  ])
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes))
  return (exports['f'] as () => never)()
}

/** What is dropped is told, as in a room's events. */
export class FakeStream extends Stream<unknown> {
  #missed = 0

  constructor(cap: number = EVENTS_CAP, onCancel: () => void = () => undefined) {
    super({
      cap,
      onCancel,
      onDrop: () => {
        this.#missed += 1
      },
    })
  }

  protected override get ready(): boolean {
    if (this.#missed > 0) this.items.unshift({ type: 'lagged', missed: this.#missed })
    this.#missed = 0
    return super.ready
  }
}

/** Room events cross as JSON. */
class EventStream extends FakeStream {
  override async nextBatch(maxItems: number, maxBytes: number): Promise<never> {
    const batch = await super.nextBatch(maxItems, maxBytes)
    return { ...batch, items: JSON.stringify(batch.items) } as never
  }
}

class FakeGroup implements GroupHandle {
  readonly #track: FakeTrack
  readonly #sequence: number
  #index = 0
  #over = false

  constructor(track: FakeTrack, sequence: number) {
    this.#track = track
    this.#sequence = sequence
  }

  write(data: Uint8Array, timestampUs = 0): void {
    if (this.#over) fail('CLOSED', 'the group is closed')
    this.#track.frame({
      data: data.slice(),
      timestamp: timestampUs,
      group: this.#sequence,
      index: this.#index++,
    })
  }

  finish(): void {
    this.#over = true
  }

  abort(): void {
    this.#over = true
  }

  free(): void {}
}

class FakeTrack implements TrackHandle {
  readonly readers = new Set<FakeStream>()
  readonly datagrams = new Set<FakeStream>()
  #newest: Frame[] = []
  #frames: Frame[] = []
  #held = false
  #lost = 0
  #groups = 0
  #end: { error: unknown } | undefined
  #waiting: (() => void)[] = []

  frame(frame: Frame): void {
    if (this.#newest[0]?.group !== frame.group) this.#newest = []
    this.#newest.push(frame)
    this.#frames.push(frame)
    // What the tests write to have a reader lose it, and to have the network not take it.
    const text = new TextDecoder().decode(frame.data.subarray(0, 4))
    if (text === 'lost') {
      this.#lost += 1
      return
    }
    if (text === 'hold') this.#held = true
    const missed = this.#lost > 0 ? { missed: this.#lost } : {}
    this.#lost = 0
    for (const reader of this.readers)
      reader.push({ ...frame, ...missed, data: frame.data.slice() })
  }

  read(): FakeStream {
    const stream = new FakeStream(FRAMES_CAP, () => {
      this.readers.delete(stream)
      this.#wake()
    })
    for (const frame of this.#newest) stream.push({ ...frame, data: frame.data.slice() })
    if (this.#end) stream.end(this.#end.error)
    else this.readers.add(stream)
    this.#wake()
    return stream
  }

  write(data: Uint8Array, timestampUs = 0): number {
    const group = this.group()
    group.write(data, timestampUs)
    return this.#groups - 1
  }

  group(): GroupHandle {
    if (this.#end) fail('TRACK_CLOSED', 'the track is closed', { code: 0 })
    return new FakeGroup(this, this.#groups++)
  }

  datagram(data: Uint8Array, timestampUs = 0): void {
    if (data.byteLength > 1_100) fail('TOO_LARGE', 'a datagram is too large', { limit: 1_100 })
    const sequence = this.#groups++
    for (const reader of this.datagrams) reader.push({ data, timestamp: timestampUs, sequence })
  }

  readDatagrams(): FakeStream {
    const stream = new FakeStream(FRAMES_CAP, () => this.datagrams.delete(stream))
    this.datagrams.add(stream)
    return stream
  }

  fetch(group: number): FakeStream {
    const frames = this.#frames.filter((frame) => frame.group === group)
    if (frames.length === 0) fail('NOT_ANNOUNCED', `there is no group ${group}`)
    const stream = new FakeStream(FRAMES_CAP)
    for (const frame of frames) stream.push({ ...frame, data: frame.data.slice() })
    stream.end()
    return stream
  }

  isReady(): boolean {
    return !this.#held
  }

  async ready(): Promise<boolean> {
    while (this.#held && this.isUsed() && !this.#end) await this.#change()
    this.#held = false
    return !this.#end
  }

  isUsed(): boolean {
    return this.readers.size > 0
  }

  async used(): Promise<boolean> {
    while (!this.isUsed() && !this.#end) await this.#change()
    return !this.#end
  }

  async unused(): Promise<boolean> {
    while (this.isUsed() && !this.#end) await this.#change()
    return !this.#end
  }

  finish(): void {
    this.#close(undefined)
  }

  abort(code: number): void {
    this.#close({ code: 'TRACK_CLOSED', message: 'the track was aborted', details: { code } })
  }

  free(): void {}

  #close(error: unknown): void {
    this.#end ??= { error }
    for (const reader of this.readers) {
      if (this.#lost > 0) reader.push({ missed: this.#lost })
      reader.end(error)
    }
    for (const reader of this.datagrams) reader.end(error)
    this.readers.clear()
    this.#wake()
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #wake(): void {
    for (const resolve of this.#waiting.splice(0)) resolve()
  }
}

class FakeBroadcast implements BroadcastHandle {
  readonly tracks = new Map<string, FakeTrack>()
  readonly #closed: (() => void)[] = []
  over = false

  track(name: string): TrackHandle {
    if (this.tracks.has(name)) fail('INVALID_ARGUMENT', `there is a track ${name} already`)
    const track = new FakeTrack()
    this.tracks.set(name, track)
    return track
  }

  closed(): Promise<void> {
    return this.over ? Promise.resolve() : new Promise((resolve) => this.#closed.push(resolve))
  }

  finish(): void {
    this.over = true
    for (const track of this.tracks.values()) track.finish()
    for (const resolve of this.#closed) resolve()
  }

  abort(code: number): void {
    for (const track of this.tracks.values()) track.abort(code)
    this.finish()
  }

  free(): void {}
}

/** Counts the calls that it may end. */
class FakeCancel extends TestCancel {
  async end<T>(promise: Promise<T>): Promise<T> {
    callsUnderWay += 1
    try {
      return await this.until(promise)
    } finally {
      callsUnderWay -= 1
    }
  }
}

let callsUnderWay = 0

class FakeScope implements ScopeHandle {
  readonly published = new Map<string, FakeBroadcast>()
  readonly #announced = new Set<FakeStream>()
  #waiting: (() => void)[] = []

  publish(name: string, broadcast: BroadcastHandle): void {
    this.published.set(name, broadcast as FakeBroadcast)
    for (const stream of this.#announced) stream.push({ remoteId: SELF_ID, name, active: true })
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  unpublish(name: string): boolean {
    for (const stream of this.#announced) stream.push({ remoteId: SELF_ID, name, active: false })
    return this.published.delete(name)
  }

  publishedBroadcasts(): string[] {
    return [...this.published.keys()].toSorted()
  }

  async connect(addr: { id: string }, cancel: FakeCancel): Promise<void> {
    if (addr.id === SILENT_ID) await cancel.end(new Promise(() => undefined))
    if (addr.id !== SELF_ID) fail('CONNECT_FAILED', `${addr.id} cannot be dialled`)
  }

  sessionInfo(remote: string): { remoteId: string; version: string } | undefined {
    return remote === SELF_ID ? { remoteId: remote, version: 'moq-lite-06' } : undefined
  }

  sessionStats(): undefined {
    return undefined
  }

  sessionClosed(_remote: string, cancel: FakeCancel): Promise<{ code: number; reason: string }> {
    return cancel.end(new Promise(() => undefined))
  }

  closeSession(): void {}

  announced(): StreamHandle {
    const stream = new FakeStream()
    for (const name of this.publishedBroadcasts()) {
      stream.push({ remoteId: SELF_ID, name, active: true })
    }
    this.#announced.add(stream)
    return stream
  }

  async waitBroadcast(_remote: string, name: string, cancel: FakeCancel): Promise<void> {
    while (!this.published.has(name)) {
      await cancel.end(new Promise<void>((resolve) => this.#waiting.push(resolve)))
    }
  }

  async broadcastClosed(_remote: string, name: string, cancel: FakeCancel): Promise<void> {
    await cancel.end(this.published.get(name)?.closed() ?? Promise.resolve())
  }

  async readTrack(
    _remote: string,
    name: string,
    track: string,
    _options: ReadOptions,
  ): Promise<StreamHandle> {
    return this.#track(name, track).read()
  }

  async readDatagrams(_remote: string, name: string, track: string): Promise<StreamHandle> {
    return this.#track(name, track).readDatagrams()
  }

  async fetchGroup(
    _remote: string,
    name: string,
    track: string,
    group: number,
  ): Promise<StreamHandle> {
    return this.#track(name, track).fetch(group)
  }

  #track(name: string, track: string): FakeTrack {
    const found = this.published.get(name)?.tracks.get(track)
    return found ?? fail('NOT_ANNOUNCED', `there is no track ${name}/${track}`)
  }

  free(): void {}
}

function peer(id: string, name: string, joinedAt = 1): Peer {
  return { id, displayName: name, broadcasts: [], joinedAt }
}

/** The id that the peer of a name has. */
export function idOf(name: string): string {
  return [...new TextEncoder().encode(name)]
    .map((byte) => byte.toString(16))
    .join('')
    .padEnd(64, '0')
}

class FakeRoom implements RoomHandle {
  readonly #core: FakeCore
  readonly #streams = new Set<FakeStream>()
  readonly #channels = new Map<string, Set<FakeStream>>()
  readonly #peers = new Map<string, Peer>()
  readonly #history: ChatMessage[] = []
  readonly #scope = new FakeScope()
  #self: Peer
  #messages = 0
  #left = false
  /** Hears commands before this does; true for one that was its. */
  onCommand: ((words: string[]) => Promise<boolean>) | undefined

  constructor(core: FakeCore, options: RoomOptions & { participantId?: string }) {
    this.#core = core
    this.#self = {
      id: SELF_ID,
      ...(options.participantId === undefined ? {} : { participantId: options.participantId }),
      broadcasts: [],
      joinedAt: 1,
      ...(options.displayName === undefined ? {} : { displayName: options.displayName }),
      ...(options.presence === undefined ? {} : { presence: JSON.parse(options.presence) }),
    }
  }

  id(): string {
    return 'bb'.repeat(32)
  }

  self(): Peer {
    return { ...this.#self, broadcasts: this.#scope.publishedBroadcasts() }
  }

  peers(): Peer[] {
    return [...this.#peers.values()]
  }

  events(): StreamHandle {
    const stream = new EventStream(EVENTS_CAP, () => this.#streams.delete(stream))
    for (const present of this.#peers.values()) stream.push({ type: 'peer-joined', peer: present })
    this.#streams.add(stream)
    return stream
  }

  async ticket(): Promise<string> {
    return `room${'a'.repeat(53)}`
  }

  async publish(name: string, broadcast: BroadcastHandle): Promise<void> {
    this.#scope.publish(name, broadcast)
    this.emit({ type: 'broadcast-subscribed', peer: this.self(), name })
  }

  async unpublish(name: string): Promise<boolean> {
    return this.#scope.unpublish(name)
  }

  async setDisplayName(name?: string): Promise<void> {
    const { displayName: _, ...rest } = this.#self
    this.#self = name === undefined ? rest : { ...rest, displayName: name }
  }

  async setPresence(json?: string): Promise<void> {
    if (json !== undefined && json.length > 2_048) {
      fail('TOO_LARGE', `presence has ${json.length} bytes`, { limit: 2_048 })
    }
    const { presence: _, ...rest } = this.#self
    this.#self = json === undefined ? rest : { ...rest, presence: JSON.parse(json) }
  }

  async sendChat(text: string): Promise<ChatMessage> {
    if (text.startsWith('/')) {
      const words = text.slice(1).split(' ')
      if (!(await this.onCommand?.(words))) await this.#command(words)
    }
    return this.#said(this.self(), text)
  }

  chatHistory(): ChatMessage[] {
    return this.#history
  }

  async setChatPublisher(): Promise<void> {}

  async channelSend(name: string, json: string): Promise<void> {
    for (const stream of this.#channels.get(name) ?? []) stream.push({ from: SELF_ID, json })
  }

  async channelMessages(name: string): Promise<StreamHandle> {
    const streams = this.#channels.get(name) ?? new Set()
    this.#channels.set(name, streams)
    const stream = new FakeStream()
    streams.add(stream)
    return stream
  }

  scope(): ScopeHandle {
    return this.#scope
  }

  async stats(): Promise<{ peers: number; sessions: number; neighbors: number; refused: number }> {
    return { peers: this.#peers.size, sessions: this.#streams.size, neighbors: 0, refused: 0 }
  }

  async diagnose(): Promise<[]> {
    return []
  }

  async leave(): Promise<void> {
    if (this.#left) return
    this.#left = true
    this.#core.log.push('left')
    for (const stream of this.#streams) stream.end()
    for (const streams of this.#channels.values()) for (const stream of streams) stream.end()
  }

  free(): void {}

  emit(event: WireEvent): void {
    for (const stream of this.#streams) stream.push(structuredClone(event))
  }

  #said(from: Peer, text: string): ChatMessage {
    this.#messages += 1
    const message = { peer: from, text, timestamp: 1, id: String(this.#messages) }
    this.#history.push(message)
    return message
  }

  async #command([command = '', ...args]: string[]): Promise<void> {
    const name = args[0] ?? ''
    switch (command) {
      case 'join': {
        const joined = peer(idOf(name), name)
        this.#peers.set(joined.id, joined)
        this.emit({ type: 'peer-joined', peer: joined })
        return
      }
      case 'part': {
        this.#peers.delete(idOf(name))
        this.emit({ type: 'peer-left', peer: peer(idOf(name), name), reason: 'left' })
        return
      }
      case 'say':
        this.emit({
          type: 'chat-message',
          ...this.#said(peer(idOf(name), name), args.slice(1).join(' ')),
        })
        return
      case 'log':
        sayInLog(name as LogLevel, args.slice(1).join(' '))
        return
      case 'burst':
        for (let i = 0; i < Number(name); i += 1) {
          const message = { peer: peer(idOf('x'), 'x'), text: String(i), timestamp: i, id: `b${i}` }
          this.emit({ type: 'chat-message', ...message })
        }
        return
      case 'streams-fail':
        for (const stream of this.#streams) {
          stream.end({ code: 'PROTOCOL', message: 'the stream broke' })
        }
        return
      case 'fail':
        fail('SESSION_CLOSED', 'the session is closed', { code: 5, reason: 'because' })
      // eslint-disable-next-line no-fallthrough
      case 'hang':
        await new Promise(() => undefined)
        return
      case 'trap':
        trap()
      // eslint-disable-next-line no-fallthrough
      case 'trap-in-task':
        setTimeout(trap)
        await new Promise(() => undefined)
        return
      case 'unclonable':
        throw Object.assign(new Error('x'), { code: 'X' })
      case 'ask':
        this.#said(this.self(), JSON.stringify(await fakeAsks.current?.ask(0, 'admit', args)))
        return
    }
  }
}

/** Where the worker entry leaves what the core would ask with. */
export const fakeAsks: { current: Asks | undefined } = { current: undefined }

class FakeCore implements CoreHandle {
  readonly log: string[] = []
  readonly #scope = new FakeScope()
  readonly #options: CoreOptions
  readonly #status = new FakeStream()
  readonly #incoming = new FakeStream()

  constructor(options: CoreOptions) {
    this.#options = options
  }

  endpointId(): string {
    return SELF_ID
  }

  secretKey(): Uint8Array {
    return this.#options.secretKey ?? new Uint8Array(32)
  }

  addr(): { id: string; relayUrl: string } {
    return { id: SELF_ID, relayUrl: 'http://127.0.0.1:1/' }
  }

  status(): 'connected' {
    return 'connected'
  }

  statusChanges(): StreamHandle {
    return this.#status
  }

  /** Its counters tell tests what the boundary did. */
  stats(): CoreStats {
    return {
      rooms: this.log.filter((entry) => entry === 'left').length,
      sessions: 0,
      refused: 0,
      gossipRestarts: 0,
      firstMs: {},
    }
  }

  scope(): ScopeHandle {
    return this.#scope
  }

  incomingSessions(): StreamHandle {
    return this.#incoming
  }

  async decideIncoming(_pending: number, accept: boolean): Promise<boolean> {
    this.log.push(accept ? 'accepted' : 'rejected')
    return true
  }

  async moqShutdown(): Promise<void> {
    this.log.push('shutdown')
  }

  async openRoom(_ticket: string, options: RoomOptions): Promise<RoomHandle> {
    if (options.displayName === 'slow') {
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    return new FakeRoom(this, options)
  }

  openStateRoom(
    how: StateRoomHow,
    room: string | undefined,
    options: StateRoomOptions,
  ): StateRoomHandle {
    const house = {
      self: SELF_ID,
      log: this.log,
      stream: () => new FakeStream(10_000),
      room: (of: StateRoomOptions) => new FakeRoom(this, of),
    }
    return new FakeStateRoom(house, how, room, options)
  }

  visibility(state: string): void {
    this.log.push(state)
    this.#status.push({ status: state === 'frozen' ? 'reconnecting' : 'connected' })
    this.#incoming.push({ pending: 1, remoteId: SELF_ID, skipped: 2 })
  }

  leaveNow(): void {
    this.log.push('leaving')
    this.#status.push({ status: 'disconnected' })
  }

  async shutdown(): Promise<void> {
    this.#status.end()
    if (this.#options.relays[0]?.includes('stuck')) await new Promise(() => undefined)
  }

  free(): void {}
}

/** What a log's listener hears, if there is one. */
let sayInLog: (level: LogLevel, message: string) => void = () => undefined

/** The module. */
export const fakeModule: CoreModule = {
  version: () => '0.0.0-fake',
  memoryBytes: () => 65_536,
  callsUnderWay: () => callsUnderWay,
  onPanic: () => undefined,
  onLog: (level, callback) => {
    sayInLog = (said, message) => {
      if (level === 'warn' || said === 'error') callback(said, 'fake::core', message)
    }
  },
  Core: {
    async spawn(options: CoreOptions): Promise<CoreHandle> {
      const [relay] = options.relays === 'n0' ? [] : options.relays
      if (relay?.includes('unreachable')) fail('RELAY_UNREACHABLE', 'no relay answered')
      if (relay?.includes('never')) await new Promise(() => undefined)
      if (relay?.includes('trap')) trap()
      return new FakeCore(options)
    },
  },
  Broadcast: FakeBroadcast,
  Cancel: FakeCancel,
}
