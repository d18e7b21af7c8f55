/** The network between endpoints: who reaches whom, how long it takes, what is lost. */
import { isPublicKey } from '../src/internal/ed25519.js'
import { toHex } from '../src/internal/bytes.js'
import type { EndpointId } from '../src/wire.js'
import { Clock } from './clock.js'
import type { TestCore } from './core.js'

/** How often endpoints look at who is silent, as in the core, in ms. */
const TICK_MS = 500
/** What is lost on its way is sent again after this, or three times the delay if that is more, in ms. */
const REPEAT_MS = 50

export interface Conditions {
  readonly delay: readonly [number, number]
  readonly loss: number
  readonly seed: number
  readonly real: boolean
}

/** The way from one endpoint to another: what is reliable stays in order. */
interface Lane {
  readonly from: EndpointId
  readonly to: EndpointId
  readonly random: () => number
  readonly queue: { at: number; readonly run: () => void }[]
  /** Whether somebody comes for the first of the queue. */
  awaited: boolean
}

export class World {
  readonly clock: Clock
  /** Those that are on the network. One that was killed is not, but others do not know it. */
  readonly cores: Map<EndpointId, TestCore> = new Map()
  /** Mean time there and back, in ms. */
  readonly rttMs: number
  readonly #conditions: Conditions
  readonly #lanes = new Map<string, Lane>()
  readonly #offline = new Set<EndpointId>()
  readonly #killed = new Set<EndpointId>()
  /** The part in which an endpoint is, of those that were named. */
  #parts = new Map<EndpointId, number>()
  #ids = 0
  #ticking = false

  constructor(conditions: Conditions) {
    this.#conditions = conditions
    this.clock = new Clock(conditions.real)
    this.rttMs = conditions.delay[0] + conditions.delay[1]
  }

  /** An endpoint's id: the same for the same seed and name. */
  newId(name?: string): EndpointId {
    this.#ids += 1
    const random = generator(`${this.#conditions.seed}/${name ?? this.#ids}`)
    for (;;) {
      const bytes = Uint8Array.from({ length: 32 }, () => Math.floor(random() * 256))
      if (isPublicKey(bytes)) return toHex(bytes)
    }
  }

  enter(core: TestCore): void {
    this.cores.set(core.id, core)
    this.#killed.delete(core.id)
    if (!this.#ticking) this.#tick()
  }

  /** In good order: what it has said is still on its way. */
  exit(core: TestCore): void {
    if (this.cores.get(core.id) === core) this.cores.delete(core.id)
  }

  kill(core: TestCore): void {
    if (this.cores.get(core.id) !== core) return
    this.cores.delete(core.id)
    this.#killed.add(core.id)
  }

  reachable(from: EndpointId, to: EndpointId): boolean {
    const [one, other] = [this.#parts.get(from), this.#parts.get(to)]
    const apart = one !== undefined && other !== undefined && one !== other
    return !apart && ![from, to].some((id) => this.#offline.has(id) || this.#killed.has(id))
  }

  partition(parts: readonly (readonly EndpointId[])[]): void {
    this.#parts = new Map(parts.flatMap((ids, part) => ids.map((id) => [id, part] as const)))
    this.#resume()
  }

  setOnline(id: EndpointId, online: boolean): void {
    if (online) this.#offline.delete(id)
    else this.#offline.add(id)
    this.cores.get(id)?.setOnline(online)
    this.#resume()
  }

  isOnline(id: EndpointId): boolean {
    return !this.#offline.has(id)
  }

  /** Arrives once and in order, later if it is lost on its way, and not before there is a way. */
  send(from: EndpointId, to: EndpointId, run: () => void): void {
    const lane = this.#lane(from, to)
    lane.queue.push({ at: this.#arrival(lane), run })
    this.#deliver(lane)
  }

  /** Arrives once or not at all. */
  datagram(from: EndpointId, to: EndpointId, run: () => void): void {
    const { random } = this.#lane(from, to)
    const lost = random() < this.#conditions.loss
    const delay = this.#delay(random)
    if (lost || !this.reachable(from, to)) return
    this.clock.in(delay, () => {
      if (this.reachable(from, to)) run()
    })
  }

  #lane(from: EndpointId, to: EndpointId): Lane {
    const key = `${from}>${to}`
    const known = this.#lanes.get(key)
    if (known) return known
    // Each way has luck of its own: what others do does not change it.
    const random = generator(`${this.#conditions.seed}/${key}`)
    const lane = { from, to, random, queue: [], awaited: false }
    this.#lanes.set(key, lane)
    return lane
  }

  #arrival({ queue, random }: Lane): number {
    let delay = this.#delay(random)
    while (random() < this.#conditions.loss) {
      delay += Math.max(REPEAT_MS, 3 * this.#conditions.delay[1])
    }
    return Math.max(queue.at(-1)?.at ?? 0, this.clock.now + delay)
  }

  #delay(random: () => number): number {
    const [least, most] = this.#conditions.delay
    return least + (most - least) * random()
  }

  #deliver(lane: Lane): void {
    const [first] = lane.queue
    if (lane.awaited || !first || !this.reachable(lane.from, lane.to)) return
    lane.awaited = true
    this.clock.in(first.at - this.clock.now, () => {
      lane.awaited = false
      if (!this.reachable(lane.from, lane.to)) return
      lane.queue.shift()
      first.run()
      this.#deliver(lane)
    })
  }

  /** There may be ways again: what waited for one sets out. */
  #resume(): void {
    for (const lane of this.#lanes.values()) {
      if (lane.awaited || !this.reachable(lane.from, lane.to)) continue
      const soonest = this.clock.now + this.#delay(lane.random)
      for (const message of lane.queue) message.at = Math.max(message.at, soonest)
      this.#deliver(lane)
    }
  }

  #tick(): void {
    this.#ticking = this.cores.size > 0
    if (!this.#ticking) return
    for (const core of this.cores.values()) core.tick()
    this.clock.in(TICK_MS, () => this.#tick())
  }
}

/** Numbers from 0 to 1 that look random, always the same of one text: mulberry32 of its FNV-1a. */
function generator(text: string): () => number {
  let state = 0x811c9dc5
  for (let i = 0; i < text.length; i += 1) {
    state = Math.imul(state ^ text.charCodeAt(i), 0x01000193)
  }
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
