import type { Tuning } from '../worker/protocol.js'
import { RoomsError } from './errors.js'
import type { LiveListeners } from './events.js'
import { Emitter, type Off, type SignalOptions, report } from './internal/emitter.js'
import { resolveIdentity } from './internal/identity.js'
import { Link, type LinkOptions, type WorkerHost } from './internal/link.js'
import { watchPage } from './internal/page.js'
import { EVENTS_WINDOW } from './internal/port-stream.js'
import type { WorkerSource } from './internal/runtime.js'
import { Moq } from './moq.js'
import type { Room } from './room.js'
import type { EndpointAddr, EndpointId, LiveStats, LogEntry, LogLevel, Status } from './wire.js'
import { runtime } from '#runtime'

/** How long `close()` lets rooms say goodbye and sessions flush, in ms. */
const GRACE_MS = 2_000

/** Options of {@link Live.spawn}. */
export interface LiveOptions extends SignalOptions {
  /** `'n0'`, the default: public relays run by n0. Or a relay's URL, or a list of them. */
  readonly relay?: 'n0' | (string & {}) | URL | readonly (string | URL)[]
  /**
   * Who this endpoint is. `'memory'`, the default: a new key that dies with it. `'tab'`: a key in
   * sessionStorage, so a reload of the tab is the same endpoint (browsers only). Or the 32 bytes of
   * a secret key: use each in one place at a time.
   */
  readonly identity?: 'memory' | 'tab' | Uint8Array
  /** The Worker's script, or a Worker made from it; default: `worker.js` beside this module. */
  readonly worker?: WorkerSource
  /** The WebAssembly: where it is, or itself; default: `core_bg.wasm` beside the Worker's script. */
  readonly wasm?: string | URL | BufferSource | WebAssembly.Module
  /** About `live.moq`: whether sessions of others are accepted by themselves. Default `'all'`. */
  readonly moq?: { readonly accept?: 'all' | 'manual' }
  /**
   * Connections with peers for broadcasts, chat and channels, 1 to 65,535; beyond, incoming ones are
   * refused, except of a peer that is connected already. What is dialled here counts and is never
   * refused. In a room everybody connects with everybody. Default 1,024.
   */
  readonly maxConnections?: number
  /**
   * What the core and the libraries in it say in their logs: `'error'` or `'warn'`, that and
   * graver, to the console; or a function that gets both. Default `'off'`. At most 20 entries in a
   * second: what is beyond is counted.
   */
  readonly log?: 'off' | LogLevel | ((entry: LogEntry) => void)
  /** @internal For the benchmark: switches off what makes it fast. */
  readonly tuning?: Tuning
  /** @internal For `./testing`: what is there instead of a Worker. */
  readonly host?: WorkerHost
}

/** How a `Live` ended: `error` when its Worker crashed. */
export interface LiveClosed {
  readonly reason: 'closed' | 'crashed'
  readonly error?: RoomsError
}

/**
 * One identity on the network, and the Worker in which everything happens. Rooms are opened on it.
 *
 * @example
 * await using live = await Live.spawn({ relay: 'http://localhost:3340' })
 */
export class Live implements AsyncDisposable {
  readonly #link: Link
  readonly #emitter = new Emitter<LiveListeners>()
  readonly #rooms = new Set<Room>()
  readonly #moq: Moq
  #status: Status

  private constructor(link: Link) {
    this.#link = link
    this.#moq = new Moq(link)
    this.#status = link.ready.status
    void this.#follow()
  }

  /**
   * Starts a Worker and an endpoint in it; resolves when a relay is connected.
   * @throws `WORKER_START`, `UNSUPPORTED_RUNTIME`, `RELAY_UNREACHABLE` (10 s), `INVALID_ARGUMENT`
   */
  static async spawn(options: LiveOptions = {}): Promise<Live> {
    const { signal, wasm } = options
    signal?.throwIfAborted()
    if (!options.host) runtime.check()
    const relays = relayList(options.relay ?? 'n0')
    const maxConnections = connections(options.maxConnections)
    const log = logger(options.log ?? 'off')
    const identity = await resolveIdentity(options.identity ?? 'memory')
    try {
      const link = await Link.start({
        host: options.host ?? runtime.startWorker(options.worker),
        boot: {
          wasm: wasm instanceof URL ? wasm.href : (absolute(wasm) ?? (await embedded(options))),
          options: {
            relays,
            moqAccept: options.moq?.accept ?? 'all',
            ...(maxConnections === undefined ? {} : { maxConnections }),
            ...(options.tuning ? { tuning: options.tuning } : {}),
            ...(identity.secretKey ? { secretKey: identity.secretKey } : {}),
          },
        },
        log,
        signal,
      })
      const forgetPage = watchPage(link)
      void link.ended.then(() => {
        forgetPage()
        identity.release()
      })
      return new Live(link)
    } catch (error) {
      identity.release()
      throw error
    }
  }

  /** The public key by which others know this endpoint. */
  get endpointId(): EndpointId {
    return this.#link.ready.endpointId
  }

  /** How the endpoint is connected. */
  get status(): Status {
    return this.#status
  }

  /** The endpoint's own MoQ scope. */
  get moq(): Moq {
    return this.#moq
  }

  /** The rooms that are open on this endpoint. */
  get rooms(): ReadonlySet<Room> {
    return this.#rooms
  }

  /** How others reach this endpoint. */
  addr(): Promise<EndpointAddr> {
    return this.#link.call('addr', [])
  }

  /** Counters. */
  stats(): Promise<LiveStats> {
    return this.#link.call('stats', [])
  }

  /** Calls the listener on each event of the type, until the returned function is called. */
  on<K extends keyof LiveListeners>(
    type: K,
    listener: LiveListeners[K],
    options: SignalOptions = {},
  ): Off {
    return this.#emitter.on(type, listener, options)
  }

  /** Calls the listener on the next event of the type only. */
  once<K extends keyof LiveListeners>(
    type: K,
    listener: LiveListeners[K],
    options: SignalOptions = {},
  ): Off {
    return this.#emitter.once(type, listener, options)
  }

  /** Settles when it has ended, by `close()` or by a crash of its Worker. Never rejects. */
  get closed(): Promise<LiveClosed> {
    return this.#link.ended
  }

  /**
   * Leaves all rooms, says goodbye, ends the Worker: within about 3 s. What is still under way
   * rejects with `CLOSED`. Idempotent, never rejects.
   */
  async close(): Promise<void> {
    await this.#link.close(GRACE_MS)
  }

  /** The same as {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Node: lets the process exit while this is open. Elsewhere nothing happens. */
  unref(): this {
    this.#link.unref()
    return this
  }

  /** @internal */
  get link(): Link {
    return this.#link
  }

  /** @internal */
  opened(room: Room): void {
    this.#rooms.add(room)
    void room.closed.then(() => this.#rooms.delete(room))
  }

  async #follow(): Promise<void> {
    const changes = this.#link.stream('statusChanges', [], {
      window: EVENTS_WINDOW,
      map: (change: { status: Status }) => change.status,
    })
    try {
      for await (const status of changes) this.#changed(status)
    } catch {
      // The Worker crashed: `closed` says so.
    }
    this.#changed('disconnected')
  }

  #changed(status: Status): void {
    if (status === this.#status) return
    this.#status = status
    this.#emitter.emit('status', { type: 'status', status })
  }
}

function relayList(relay: NonNullable<LiveOptions['relay']>): 'n0' | string[] {
  if (relay === 'n0') return 'n0'
  const list = typeof relay === 'string' || relay instanceof URL ? [relay] : relay
  const urls = list.map((item) => {
    try {
      const url = new URL(item)
      if (url.protocol === 'http:' || url.protocol === 'https:') return url.href
    } catch {
      // Said below.
    }
    throw new RoomsError(
      'INVALID_ARGUMENT',
      `relay: '${String(item)}' is neither 'n0' nor an http(s) URL`,
    )
  })
  if (urls.length > 0) return urls
  throw new RoomsError('INVALID_ARGUMENT', 'relay: the list is empty')
}

function connections(max: number | undefined): number | undefined {
  if (max === undefined || (Number.isInteger(max) && max >= 1 && max <= 0xffff)) return max
  throw new RoomsError('INVALID_ARGUMENT', 'maxConnections is an integer from 1 to 65,535')
}

function logger(log: NonNullable<LiveOptions['log']>): LinkOptions['log'] {
  if (log === 'off') return undefined
  if (typeof log === 'function') {
    const hear = (entry: LogEntry): void => {
      try {
        log(entry)
      } catch (error) {
        report(error)
      }
    }
    return { level: 'warn', hear }
  }
  if (log === 'error' || log === 'warn') {
    return {
      level: log,
      hear: ({ level, target, message }) => console[level](`${target}: ${message}`),
    }
  }
  throw new RoomsError('INVALID_ARGUMENT', "log: it is 'off', 'error', 'warn' or a function")
}

/** `./inline` brings the WebAssembly along. */
async function embedded({ host, worker }: LiveOptions): Promise<WebAssembly.Module | undefined> {
  return host || worker ? undefined : runtime.wasm?.()
}

/** The Worker's script has another base than the page. */
function absolute<T>(wasm: T): T | string {
  return typeof wasm === 'string' && typeof document !== 'undefined'
    ? new URL(wasm, document.baseURI).href
    : wasm
}
