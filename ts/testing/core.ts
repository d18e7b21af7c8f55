/** The core in TypeScript: what the Worker asks of the WebAssembly, on a {@link World}. */
import type {
  CoreHandle,
  CoreModule,
  CoreOptions,
  RoomHandle,
  RoomOptions,
  StateRoomHandle,
  StreamHandle,
} from '../worker/core-module.js'
import type { SessionEnd } from '../worker/protocol.js'
import { RoomTicket } from '../src/index.js'
import { RoomsError } from '../src/errors.js'
import { toHex } from '../src/internal/bytes.js'
import type { CoreStats, EndpointAddr, EndpointId, Status } from '../src/wire.js'
import { TestRoom } from './room.js'
import { CODE_LEAVING, CODE_REJECTED, Scope, TestCancel } from './session.js'
import { Stream, fail } from './stream.js'
import { TestBroadcast } from './track.js'
import type { World } from './world.js'

/** A session that nobody decides about is turned away, in ms. */
const DECISION_MS = 10_000
const MAX_CONNECTIONS = 1_024

interface Incoming {
  readonly pending: number
  readonly remoteId: EndpointId
  skipped: number
}

/** One endpoint. */
export class TestCore implements CoreHandle {
  readonly id: EndpointId
  readonly world: World
  readonly rooms: Map<string, TestRoom> = new Map()
  readonly #options: CoreOptions
  readonly #own: Scope
  readonly #status = new Stream<{ status: Status }>()
  readonly #incoming = new Stream<Incoming>({
    onDrop: (dropped, next) => {
      next.skipped += dropped.skipped + 1
    },
  })
  readonly #pending = new Map<number, (accept: boolean) => boolean>()
  #numbers = 0
  #refused = 0
  #over = false

  constructor(world: World, options: CoreOptions) {
    this.world = world
    this.#options = options
    this.id = world.newId(options.secretKey && toHex(options.secretKey))
    this.#own = new Scope(this, '')
  }

  endpointId(): EndpointId {
    return this.id
  }

  secretKey(): Uint8Array {
    return fail('UNSUPPORTED_RUNTIME', 'endpoints of a TestNetwork have no keys', {
      feature: 'keys',
    })
  }

  addr(): EndpointAddr {
    const [relayUrl] = this.#options.relays
    return { id: this.id, ...(relayUrl === undefined ? {} : { relayUrl }) }
  }

  status(): Status {
    if (this.#over) return 'disconnected'
    return this.world.isOnline(this.id) ? 'connected' : 'reconnecting'
  }

  statusChanges(): StreamHandle {
    return this.#status
  }

  stats(): CoreStats {
    return {
      rooms: this.rooms.size,
      sessions: this.#scopes().reduce((sum, { sessions }) => sum + sessions.size, 0),
      refused: this.#refused,
      gossipRestarts: 0,
      firstMs: {},
    }
  }

  scope(): Scope {
    return this.#own
  }

  incomingSessions(): StreamHandle {
    return this.#incoming
  }

  async decideIncoming(pending: number, accept: boolean): Promise<boolean> {
    const decide = this.#pending.get(pending)
    this.#pending.delete(pending)
    return decide?.(accept) ?? false
  }

  async moqShutdown(): Promise<void> {
    for (const scope of this.#scopes()) scope.close(CODE_LEAVING, 'leaving')
  }

  openStateRoom(): StateRoomHandle {
    return fail('UNSUPPORTED_RUNTIME', 'a TestNetwork has no rooms with a doorman: use Room.open', {
      feature: 'rooms with a doorman',
    })
  }

  async openRoom(text: string, options: RoomOptions): Promise<RoomHandle> {
    const ticket = RoomTicket.parse(text)
    if (options.compat !== undefined) {
      fail(
        'UNSUPPORTED_RUNTIME',
        'a TestNetwork has no peers of other libraries: leave out `compat`',
        {
          feature: 'compat',
        },
      )
    }
    if (this.rooms.has(ticket.topicId)) {
      fail('INVALID_ARGUMENT', 'this room is open here already: leave it first')
    }
    const room = new TestRoom(this, ticket.topicId, ticket.bootstrap, options)
    this.rooms.set(ticket.topicId, room)
    room.enter()
    return room
  }

  visibility(state: 'visible' | 'hidden' | 'frozen' | 'resumed'): void {
    if (state === 'resumed') for (const room of this.rooms.values()) room.enter()
  }

  leaveNow(): void {
    for (const room of this.rooms.values()) room.depart()
  }

  async shutdown(): Promise<void> {
    this.#over = true
    await Promise.all([...this.rooms.values()].map((room) => room.leave()))
    this.#own.close(CODE_LEAVING, 'leaving')
    this.#incoming.end()
    this.#status.end()
    this.world.exit(this)
  }

  free(): void {}

  /** Somebody has dialled. */
  knock(from: Scope): void {
    const room = this.rooms.get(from.key)
    const scope = from.key ? (room?.here ? room.scope() : undefined) : this.#own
    const remoteId = from.core.id
    if (!scope || scope.over) {
      const what = from.key ? `${this.id} is not in the room` : `${this.id} has shut MoQ down`
      return this.#own.refuse(from, new RoomsError('CONNECT_FAILED', what))
    }
    // Both have dialled: the call of the lower id stands.
    if (scope.dials.has(remoteId) && !scope.sessions.has(remoteId) && this.id < remoteId) return
    if (this.#busy(remoteId))
      return this.#refuse(scope, from, { code: CODE_REJECTED, reason: 'busy' })
    if (from.key) return scope.accept(from)
    const pending = (this.#numbers += 1)
    if (this.#options.moqAccept === 'all') {
      scope.accept(from)
      this.#pending.set(pending, (accept) => {
        if (!accept) scope.closeSession(remoteId, CODE_REJECTED, 'rejected')
        return scope.sessions.has(remoteId)
      })
    } else {
      const decide = (accept: boolean): boolean => {
        if (accept) scope.accept(from)
        else this.#refuse(scope, from, { code: CODE_REJECTED, reason: 'rejected' })
        return true
      }
      this.#pending.set(pending, decide)
      this.world.clock.in(DECISION_MS, () => void this.decideIncoming(pending, false))
    }
    this.#incoming.push({ pending, remoteId, skipped: 0 })
  }

  setOnline(online: boolean): void {
    const status = this.status()
    this.#status.push({ status })
    for (const room of this.rooms.values()) room.setOnline(online, status)
  }

  tick(): void {
    this.#own.tick()
    for (const room of this.rooms.values()) room.tick()
  }

  #refuse(scope: Scope, from: Scope, details: SessionEnd): void {
    this.#refused += 1
    const what = `${this.id} did not accept the session: ${details.reason}`
    scope.refuse(from, new RoomsError('SESSION_CLOSED', what, { details }))
  }

  /** Whether one more peer is one too many. */
  #busy(remote: EndpointId): boolean {
    const peers = new Set<EndpointId>()
    for (const { sessions } of this.#scopes()) for (const peer of sessions.keys()) peers.add(peer)
    return !peers.has(remote) && peers.size >= (this.#options.maxConnections ?? MAX_CONNECTIONS)
  }

  #scopes(): Scope[] {
    return [this.#own, ...[...this.rooms.values()].map((room) => room.scope())]
  }
}

/** The module of one endpoint. */
export function coreModule(world: World, spawned: (core: TestCore) => void): CoreModule {
  return {
    version: () => 'test',
    memoryBytes: () => 0,
    callsUnderWay: () => 0,
    onPanic: () => undefined,
    onLog: () => undefined,
    Core: {
      async spawn(options): Promise<CoreHandle> {
        const core = new TestCore(world, options)
        if (world.cores.has(core.id)) {
          fail('INVALID_ARGUMENT', 'an endpoint of this identity is on the network already')
        }
        world.enter(core)
        spawned(core)
        return core
      },
    },
    Broadcast: class extends TestBroadcast {
      constructor() {
        super(world.clock)
      }
    },
    Cancel: TestCancel,
  }
}
