/**
 * What the Worker does for each call of {@link Core}: find the object, ask the core. No logic.
 *
 * Rooms, broadcasts and tracks live in tables by the handle that the caller's side chose. A room
 * that is left is taken out of the table before its `leave()` is awaited, so later calls on it are
 * refused with `CLOSED`.
 */
import { type ErrorData, RoomsError } from '../src/errors.js'
import type {
  BroadcastHandle,
  CancelHandle,
  CoreHandle,
  CoreModule,
  Freeable,
  RoomHandle,
  ScopeHandle,
  StateRoomHandle,
  StreamHandle,
} from './core-module.js'
import type { Asks } from './asks.js'
import type { Core, Handle, Method, Result, ScopeId } from './protocol.js'
import { type PumpHost, pumpStream, pumpTrack } from './pump.js'
import { StandingStream, answerQuestions, standingOf } from './state-room.js'

/** {@link Core}, where a method may also look at the signal of its operation. */
type Serving = {
  [M in Method]: (...args: [...Parameters<Core[M]>, AbortSignal]) => ReturnType<Core[M]>
}

/** An open room, and what there is only if it has a doorman. */
interface OpenRoom {
  readonly room: RoomHandle
  readonly scope: ScopeHandle
  readonly agreed?: { readonly state: StateRoomHandle; readonly stop: () => void }
}

export class Api implements PumpHost {
  readonly #module: CoreModule
  readonly #core: CoreHandle
  readonly #asks: Asks
  readonly #broken: (error: ErrorData) => void
  readonly #rooms = new Map<Handle, OpenRoom>()
  readonly #broadcasts = new Map<Handle, BroadcastHandle>()
  readonly #operations = new Map<number, AbortController>()
  readonly #held = new Set<Freeable>()
  readonly ports: Set<MessagePort> = new Set()
  readonly #own: ScopeHandle
  readonly #serving: Serving

  /** @param broken - told when the WebAssembly instance can no longer be used */
  constructor(
    module: CoreModule,
    core: CoreHandle,
    asks: Asks,
    broken: (error: ErrorData) => void,
  ) {
    this.#module = module
    this.#core = core
    this.#asks = asks
    this.#broken = broken
    this.#own = core.scope()
    this.#serving = this.#serve()
  }

  /** Runs one operation. Never rejects. */
  async invoke(op: number, method: Method, args: unknown[]): Promise<Result<unknown>> {
    const controller = new AbortController()
    this.#operations.set(op, controller)
    try {
      if (!Object.hasOwn(this.#serving, method)) {
        throw new RoomsError('PROTOCOL', `the Worker does not know the call ${method}`)
      }
      const serve = this.#serving[method] as (...args: unknown[]) => Promise<unknown>
      return { ok: true, value: await serve(...args, controller.signal) }
    } catch (thrown) {
      return { ok: false, error: this.toData(thrown) }
    } finally {
      this.#operations.delete(op)
    }
  }

  /** Nobody waits for the operation any more. */
  cancel(op: number): void {
    this.#operations.get(op)?.abort()
  }

  toData(thrown: unknown): ErrorData {
    const data = RoomsError.toData(thrown)
    if (!(thrown instanceof WebAssembly.RuntimeError)) return data
    // A trap leaves the instance in the middle of something: nothing in it can be trusted.
    const crash = { ...data, code: 'WORKER_CRASHED' }
    this.#broken(crash)
    return crash
  }

  hold<T extends Freeable>(object: T): T {
    this.#held.add(object)
    return object
  }

  release(object: Freeable): void {
    // A second `free` would be of somebody else's memory.
    if (!this.#held.delete(object)) return
    try {
      object.free()
    } catch (thrown) {
      this.toData(thrown)
    }
  }

  #room(handle: Handle): RoomHandle {
    const entry = this.#rooms.get(handle)
    if (!entry) throw new RoomsError('CLOSED', 'this room is closed')
    return entry.room
  }

  #state(handle: Handle): StateRoomHandle {
    const state = this.#rooms.get(handle)?.agreed?.state
    if (!state) throw new RoomsError('CLOSED', 'this room is closed')
    return state
  }

  /** The page is hidden: rooms get another doorman before its timers are slowed down. */
  handOver(): void {
    for (const { agreed } of this.#rooms.values()) agreed?.state.handOver()
  }

  #scope(id: ScopeId): ScopeHandle {
    if (id === 0) return this.#own
    const entry = this.#rooms.get(id)
    if (!entry) throw new RoomsError('CLOSED', 'this room is closed')
    return entry.scope
  }

  #broadcast(handle: Handle): BroadcastHandle {
    const broadcast = this.#broadcasts.get(handle)
    if (!broadcast) throw new RoomsError('CLOSED', 'this broadcast is closed')
    return broadcast
  }

  #pump(
    port: MessagePort,
    open: (signal: AbortSignal) => Promise<StreamHandle> | StreamHandle,
  ): void {
    checkPort(port)
    void pumpStream(this, port, open)
  }

  /** Asks the core something that the signal ends there as well. */
  async #until<T>(signal: AbortSignal, ask: (cancel: CancelHandle) => Promise<T>): Promise<T> {
    const cancel = this.hold(new this.#module.Cancel())
    const onAbort = (): void => cancel.cancel()
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
    try {
      return await ask(cancel)
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.release(cancel)
    }
  }

  #serve(): Serving {
    const core = this.#core
    return {
      addr: async () => core.addr(),
      stats: async () => ({
        ...core.stats(),
        memoryBytes: this.#module.memoryBytes(),
        objects: this.#held.size,
        ports: this.ports.size,
        calls: this.#module.callsUnderWay(),
      }),
      statusChanges: async (port) => this.#pump(port, () => core.statusChanges()),
      shutdown: async (graceMs) => core.shutdown(graceMs),

      openRoom: async (handle, ticket, options, main, cursor, signal) => {
        checkPort(main)
        checkPort(cursor)
        if (this.#rooms.has(handle)) throw new RoomsError('PROTOCOL', 'that handle is in use')
        const room = this.hold(await core.openRoom(ticket, options))
        try {
          signal.throwIfAborted()
          // Both are opened before anything is said about the room: neither misses an event.
          const streams = [room.events(), room.events()] as const
          this.#rooms.set(handle, { room, scope: this.hold(room.scope()) })
          this.#pump(main, () => streams[0])
          this.#pump(cursor, () => streams[1])
          return { id: room.id(), self: room.self(), peers: room.peers() }
        } catch (thrown) {
          await room.leave()
          this.release(room)
          throw thrown
        }
      },
      openStateRoom: async (
        handle,
        how,
        name,
        options,
        main,
        cursor,
        changes,
        standing,
        signal,
      ) => {
        for (const port of [main, cursor, changes, standing]) checkPort(port)
        if (this.#rooms.has(handle)) throw new RoomsError('PROTOCOL', 'that handle is in use')
        const state = this.hold(core.openStateRoom(how, name, options))
        // From the start: who creates is a doorman before it knows that it is.
        const stopAsking = answerQuestions(this, this.#asks, handle, state)
        try {
          await this.#until(signal, (cancel) => state.ready(cancel))
          signal.throwIfAborted()
          const room = this.hold(state.room())
          const streams = [room.events(), room.events(), state.changes()] as const
          const standings = new StandingStream(state)
          const stop = (): void => {
            stopAsking()
            standings.cancel()
          }
          const scope = this.hold(room.scope())
          this.#rooms.set(handle, { room, scope, agreed: { state, stop } })
          this.#pump(main, () => streams[0])
          this.#pump(cursor, () => streams[1])
          this.#pump(changes, () => streams[2])
          this.#pump(standing, () => standings)
          return { id: state.id(), self: room.self(), peers: room.peers(), ...standingOf(state) }
        } catch (thrown) {
          stopAsking()
          await state.leave()
          this.release(state)
          throw thrown
        }
      },
      propose: async (room, kind, json, ifIndex) => this.#state(room).propose(kind, json, ifIndex),
      kick: async (room, participant) => this.#state(room).kick(participant),
      lock: async (room, locked) => this.#state(room).lock(locked),
      setModerators: async (room, ids) => this.#state(room).setModerators(ids),
      rotate: async (room) => this.#state(room).rotate(),
      recover: async (room) => this.#state(room).recover(),
      saved: async (room) => this.#state(room).saved(),
      leaveRoom: async (handle) => {
        const entry = this.#rooms.get(handle)
        if (!entry) return
        this.#rooms.delete(handle)
        entry.agreed?.stop()
        await (entry.agreed?.state ?? entry.room).leave()
        this.release(entry.scope)
        this.release(entry.room)
        if (entry.agreed) this.release(entry.agreed.state)
      },
      roomEvents: async (room, port) => this.#pump(port, () => this.#room(room).events()),
      roomTicket: async (room) => this.#room(room).ticket(),
      roomSelf: async (room) => this.#room(room).self(),
      roomStats: async (room) => this.#room(room).stats(),
      diagnose: async (room) => this.#room(room).diagnose(),
      setDisplayName: async (room, name) => this.#room(room).setDisplayName(name),
      setPresence: async (room, json) => this.#room(room).setPresence(json),
      sendChat: async (room, text) => this.#room(room).sendChat(text),
      chatHistory: async (room) => this.#room(room).chatHistory(),
      setChatPublisher: async (room, broadcast) =>
        this.#room(room).setChatPublisher(this.#broadcast(broadcast)),
      channelSend: async (room, name, json, to, datagram) =>
        this.#room(room).channelSend(name, json, to, datagram),
      channelMessages: async (room, name, port) =>
        this.#pump(port, () => this.#room(room).channelMessages(name)),

      publish: async (scope, name, handle) => {
        const broadcast = this.#broadcast(handle)
        // A room also tells its peers what it publishes; the endpoint's own scope has nobody to tell.
        if (scope === 0) this.#own.publish(name, broadcast)
        else await this.#room(scope).publish(name, broadcast)
      },
      unpublish: async (scope, name) =>
        scope === 0 ? this.#own.unpublish(name) : this.#room(scope).unpublish(name),
      publishedBroadcasts: async (scope) => this.#scope(scope).publishedBroadcasts(),
      connect: async (id, addr, signal) => {
        const scope = this.#scope(id)
        await this.#until(signal, (cancel) => scope.connect(addr, cancel))
        const info = scope.sessionInfo(addr.id)
        if (!info) throw new RoomsError('CONNECT_FAILED', `${addr.id} closed the session at once`)
        return info
      },
      sessionInfo: async (scope, remote) => this.#scope(scope).sessionInfo(remote),
      sessionStats: async (scope, remote) => this.#scope(scope).sessionStats(remote),
      sessionClosed: async (scope, remote, signal) =>
        this.#until(signal, (cancel) => this.#scope(scope).sessionClosed(remote, cancel)),
      closeSession: async (scope, remote, code, reason) =>
        this.#scope(scope).closeSession(remote, code, reason),
      announced: async (scope, remote, port) =>
        this.#pump(port, () => this.#scope(scope).announced(remote)),
      incomingSessions: async (port) => this.#pump(port, () => core.incomingSessions()),
      decideIncoming: async (pending, accept) => core.decideIncoming(pending, accept),
      moqShutdown: async () => core.moqShutdown(),
      waitBroadcast: async (scope, remote, name, signal) =>
        this.#until(signal, (cancel) => this.#scope(scope).waitBroadcast(remote, name, cancel)),
      broadcastClosed: async (scope, remote, name, signal) =>
        this.#until(signal, (cancel) => this.#scope(scope).broadcastClosed(remote, name, cancel)),
      readTrack: async (scope, remote, name, track, options, port) =>
        this.#pump(port, (gone) =>
          this.#until(gone, (cancel) =>
            this.#scope(scope).readTrack(remote, name, track, options, cancel),
          ),
        ),
      readDatagrams: async (scope, remote, name, track, port) =>
        this.#pump(port, (gone) =>
          this.#until(gone, (cancel) =>
            this.#scope(scope).readDatagrams(remote, name, track, cancel),
          ),
        ),
      fetchGroup: async (scope, remote, name, track, group, port) =>
        this.#pump(port, (gone) =>
          this.#until(gone, (cancel) =>
            this.#scope(scope).fetchGroup(remote, name, track, group, cancel),
          ),
        ),

      broadcastOpen: async (handle) => {
        if (this.#broadcasts.has(handle)) return
        this.#broadcasts.set(handle, this.hold(new this.#module.Broadcast()))
      },
      broadcastClose: async (handle, code) => {
        const broadcast = this.#broadcasts.get(handle)
        if (!broadcast) return
        this.#broadcasts.delete(handle)
        if (code === undefined) broadcast.finish()
        else broadcast.abort(code)
        this.release(broadcast)
      },
      trackOpen: async (broadcast, name, options, port) => {
        checkPort(port)
        pumpTrack(this, port, this.#broadcast(broadcast), name, options)
      },
    }
  }
}

function checkPort(port: MessagePort | undefined): void {
  if (typeof port?.postMessage === 'function') return
  throw new RoomsError('PROTOCOL', 'a call that needs a port came without')
}
