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
  CoreHandle,
  CoreModule,
  RoomHandle,
  ScopeHandle,
  StreamHandle,
} from './core-module.js'
import type { Core, Handle, Method, Result, ScopeId } from './protocol.js'
import { type PumpHost, pumpStream, pumpTrack, release } from './pump.js'

/** {@link Core}, where a method may also look at the signal of its operation. */
type Serving = {
  [M in Method]: (...args: [...Parameters<Core[M]>, AbortSignal]) => ReturnType<Core[M]>
}

export class Api implements PumpHost {
  readonly #module: CoreModule
  readonly #core: CoreHandle
  readonly #broken: (error: ErrorData) => void
  readonly #rooms = new Map<Handle, { room: RoomHandle; scope: ScopeHandle }>()
  readonly #broadcasts = new Map<Handle, BroadcastHandle>()
  readonly #operations = new Map<number, AbortController>()
  readonly #own: ScopeHandle
  readonly #serving: Serving

  /** @param broken - told when the WebAssembly instance can no longer be used */
  constructor(module: CoreModule, core: CoreHandle, broken: (error: ErrorData) => void) {
    this.#module = module
    this.#core = core
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

  #room(handle: Handle): RoomHandle {
    const entry = this.#rooms.get(handle)
    if (!entry) throw new RoomsError('CLOSED', 'this room is closed')
    return entry.room
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

  #pump(port: MessagePort, open: () => Promise<StreamHandle> | StreamHandle): void {
    void pumpStream(this, port, open)
  }

  #serve(): Serving {
    const core = this.#core
    return {
      addr: async () => core.addr(),
      stats: async () => core.stats(),
      statusChanges: async (port) => this.#pump(port, () => core.statusChanges()),
      shutdown: async (graceMs) => core.shutdown(graceMs),

      openRoom: async (handle, ticket, options, main, cursor, signal) => {
        const room = await core.openRoom(ticket, options)
        const discard = async (): Promise<void> => {
          await room.leave()
          release(room)
        }
        try {
          // Both are opened before anything is said about the room: neither misses an event.
          const streams = await Promise.all([room.events(), room.events()])
          const opened = { id: room.id(), self: room.self(), peers: await room.peers() }
          signal.throwIfAborted()
          this.#rooms.set(handle, { room, scope: room.scope() })
          this.#pump(main, () => streams[0])
          this.#pump(cursor, () => streams[1])
          return opened
        } catch (thrown) {
          await discard()
          throw thrown
        }
      },
      leaveRoom: async (handle) => {
        const entry = this.#rooms.get(handle)
        if (!entry) return
        this.#rooms.delete(handle)
        await entry.room.leave()
        release(entry.scope)
        release(entry.room)
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
        await unlessAborted(scope.connect(addr), signal)
        const info = scope.sessionInfo(addr.id)
        if (!info) throw new RoomsError('CONNECT_FAILED', `${addr.id} closed the session at once`)
        return info
      },
      sessionInfo: async (scope, remote) => this.#scope(scope).sessionInfo(remote),
      sessionStats: async (scope, remote) => this.#scope(scope).sessionStats(remote),
      sessionClosed: async (scope, remote, signal) =>
        unlessAborted(this.#scope(scope).sessionClosed(remote), signal),
      closeSession: async (scope, remote, code, reason) =>
        this.#scope(scope).closeSession(remote, code, reason),
      announced: async (scope, remote, port) =>
        this.#pump(port, () => this.#scope(scope).announced(remote)),
      incomingSessions: async (port) => this.#pump(port, () => core.incomingSessions()),
      decideIncoming: async (pending, accept) => core.decideIncoming(pending, accept),
      waitBroadcast: async (scope, remote, name, signal) =>
        unlessAborted(this.#scope(scope).waitBroadcast(remote, name), signal),
      broadcastClosed: async (scope, remote, name, signal) =>
        unlessAborted(this.#scope(scope).broadcastClosed(remote, name), signal),
      readTrack: async (scope, remote, name, track, options, port) =>
        this.#pump(port, () => this.#scope(scope).readTrack(remote, name, track, options)),

      broadcastOpen: async (handle) => {
        this.#broadcasts.set(handle, new this.#module.Broadcast())
      },
      broadcastClose: async (handle, code) => {
        const broadcast = this.#broadcasts.get(handle)
        if (!broadcast) return
        this.#broadcasts.delete(handle)
        if (code === undefined) broadcast.finish()
        else broadcast.abort(code)
        release(broadcast)
      },
      trackOpen: async (broadcast, name, options, port) =>
        pumpTrack(this, port, this.#broadcast(broadcast), name, options),
    }
  }
}

/**
 * Lets go of a promise of the core when the operation is cancelled. The core's future itself goes
 * on until its room or session ends: it holds nothing but its place in a list.
 */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort: (() => void) | undefined
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new RoomsError('CLOSED', 'the operation was cancelled'))
    signal.addEventListener('abort', onAbort)
  })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    if (onAbort) signal.removeEventListener('abort', onAbort)
  }
}
