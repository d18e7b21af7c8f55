/**
 * A network in memory for the tests of applications: many peers in one process, with delay, loss,
 * partitions and a clock of its own; no Worker, no WebAssembly, no sockets. The classes are those of
 * `iroh-rooms`, and so is all that they do on this side of the Worker's boundary.
 *
 * @packageDocumentation
 */
import { Live, type LiveOptions, RoomsError } from '../src/index.js'
import { type TestCore, coreModule } from './core.js'
import { LocalHost } from './local-port.js'
import { World } from './world.js'

/** Options of {@link TestNetwork}. */
export interface TestNetworkOptions {
  /** How long everything is on its way, in ms; or from how long to how long. Default 0. */
  readonly delayMs?: number | readonly [least: number, most: number]
  /**
   * Share of messages that are lost, from 0 to below 1, default 0. Lost datagrams are gone; the rest is
   * sent again, which takes longer.
   */
  readonly loss?: number
  /** Decides who has which id, what is lost and how long it takes. Default 1. */
  readonly seed?: number
  /**
   * `'virtual'`, the default: time stands still but for {@link TestNetwork.advance}, so that a test is
   * the same each time. `'real'`: time goes on by itself as well.
   */
  readonly clock?: 'virtual' | 'real'
}

/** Options of {@link TestNetwork.spawn}: those of `Live.spawn` that mean something here. */
export type TestLiveOptions = Pick<LiveOptions, 'moq' | 'maxConnections' | 'signal'> & {
  /** As in `Live.spawn`, but the endpoint's id is not the public key of these 32 bytes. */
  readonly identity?: Uint8Array
}

const NOT_HERE = ['relay', 'worker', 'wasm', 'log']

/**
 * A network in memory.
 *
 * @example
 * await using net = new TestNetwork({ delayMs: 20 })
 * const [one, other] = [await net.spawn(), await net.spawn()]
 * const alice = await Room.open(one, RoomTicket.generate(), { displayName: 'Alice' })
 * const bob = await Room.open(other, await alice.ticket(), { displayName: 'Bob' })
 * await net.advance(200)
 * console.log(alice.peers.size) // 1
 */
export class TestNetwork implements AsyncDisposable {
  readonly #world: World
  readonly #lives = new Map<Live, { readonly core: TestCore; readonly host: LocalHost }>()

  /** @throws `INVALID_ARGUMENT` */
  constructor(options: TestNetworkOptions = {}) {
    const { delayMs = 0, loss = 0, seed = 1, clock = 'virtual' } = options
    const [least, most] = typeof delayMs === 'number' ? [delayMs, delayMs] : delayMs
    if (!(least >= 0 && most >= least && most < Number.POSITIVE_INFINITY)) {
      throw new RoomsError('INVALID_ARGUMENT', 'delayMs is 0 or more, or two such numbers in order')
    }
    if (!(loss >= 0 && loss < 1)) {
      throw new RoomsError('INVALID_ARGUMENT', 'loss is from 0 to below 1')
    }
    if (clock !== 'virtual' && clock !== 'real') {
      throw new RoomsError('INVALID_ARGUMENT', "clock is 'virtual' or 'real'")
    }
    this.#world = new World({ delay: [least, most], loss, seed, real: clock === 'real' })
  }

  /** Puts an endpoint on the network, which is connected at once. */
  async spawn(options: TestLiveOptions = {}): Promise<Live> {
    const foreign = NOT_HERE.find((name) => name in options)
    if (foreign !== undefined) {
      throw new RoomsError('INVALID_ARGUMENT', `a TestNetwork has no option ${foreign}`)
    }
    const world = this.#world
    let core: TestCore | undefined
    const module = coreModule(world, (spawned) => {
      core = spawned
    })
    const host = new LocalHost(
      world.clock.tasks,
      async () => module,
      () => core && world.kill(core),
    )
    const live = await Live.spawn({ ...options, relay: RELAY, host })
    this.#lives.set(live, { core: core as unknown as TestCore, host })
    void live.closed.then(() => this.#lives.delete(live))
    return live
  }

  /** Milliseconds since the network was made, by its own clock. */
  get now(): number {
    return this.#world.clock.now
  }

  /**
   * Lets time pass, and everything happen in it: messages arrive, silence is noticed. Resolves when
   * nothing more follows, so that what is awaited then is about the new time. Code under test may
   * react by promises; what it does by timers or I/O of its own is not waited for.
   * @param ms - 0 waits for what is due now
   */
  async advance(ms: number): Promise<void> {
    if (!(ms >= 0 && ms < Number.POSITIVE_INFINITY)) {
      throw new RoomsError('INVALID_ARGUMENT', 'ms is 0 or more')
    }
    await this.#world.clock.advance(ms)
  }

  /**
   * Cuts the network into parts: endpoints of two parts do not reach each other. Those in no part reach
   * all. Nobody is told; who is silent for 9 s is gone.
   */
  partition(...parts: readonly (readonly Live[])[]): void {
    this.#world.partition(parts.map((lives) => lives.map((live) => this.#of(live).core.id)))
  }

  /** Ends the partition. What was sent meanwhile arrives, unless its session ended (30 s). */
  heal(): void {
    this.#world.partition([])
  }

  /** Takes an endpoint off the network, as if its relay was gone: its status is `reconnecting`. */
  offline(live: Live): void {
    this.#world.setOnline(this.#of(live).core.id, false)
  }

  /** Puts it back. */
  online(live: Live): void {
    this.#world.setOnline(this.#of(live).core.id, true)
  }

  /** Ends an endpoint without a goodbye: here as a Worker that crashed, for others by its silence. */
  kill(live: Live): void {
    this.#of(live).host.crash('it was killed by TestNetwork.kill')
  }

  /** Closes every `Live` of this network. */
  async close(): Promise<void> {
    await Promise.all([...this.#lives.keys()].map((live) => live.close()))
    this.#world.clock.stop()
  }

  /** The same as {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #of(live: Live): { readonly core: TestCore; readonly host: LocalHost } {
    const entry = this.#lives.get(live)
    if (entry) return entry
    throw new RoomsError('INVALID_ARGUMENT', 'that Live is not (any more) on this network')
  }
}

/** What endpoints say is their relay. There is none. */
const RELAY = 'https://relay.test/'
