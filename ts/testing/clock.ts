/**
 * Time of a network, and the order of everything in it.
 *
 * - {@link Tasks}: what happens now, one after the other, each in a turn of the event loop of its own.
 * - {@link Clock}: what happens later. Each instant is done, with all that follows from it, before the
 *   next one comes.
 */

// As they are at import: an application may have replaced the timers of its tests.
const {
  setImmediate: immediate,
  setTimeout: timeout,
  clearTimeout: cancel,
} = globalThis as {
  setImmediate?: (run: () => void) => unknown
  setTimeout: (run: () => void, ms: number) => unknown
  clearTimeout: (timer: unknown) => void
}
const clock = performance.now.bind(performance)
const wall = Date.now.bind(Date)

/** Where a virtual clock begins: the wall clock of peers is the same in each run. */
const VIRTUAL_START = Date.UTC(2026, 0, 1)
/** Turns of the event loop without anything to do, until nothing more is expected to follow. */
const QUIET_TURNS = 3

/** Tasks in the order in which they were given. */
export class Tasks {
  readonly #queue: (() => void)[] = []
  readonly #turn: () => void

  constructor() {
    if (immediate) {
      this.#turn = () => void immediate(this.#run)
      return
    }
    const { port1, port2 } = new MessageChannel()
    port1.addEventListener('message', this.#run)
    port1.start()
    this.#turn = () => port2.postMessage(0)
  }

  post(task: () => void): void {
    this.#queue.push(task)
    this.#turn()
  }

  /** Resolves when nothing waits and nothing came for a few turns. */
  async settled(): Promise<void> {
    for (let quiet = 0; quiet < QUIET_TURNS; quiet += 1) {
      const busy = this.#queue.length > 0
      await new Promise<void>((resolve) => this.post(resolve))
      if (busy || this.#queue.length > 0) quiet = -1
    }
  }

  readonly #run = (): void => this.#queue.shift()?.()
}

interface Timer {
  readonly at: number
  readonly run: () => void
}

/** Virtual: stands still between calls of {@link Clock.advance}. Real: goes on by itself as well. */
export class Clock {
  readonly tasks: Tasks = new Tasks()
  readonly #real: boolean
  readonly #start: number = clock()
  /** By time; of one time, in the order in which they were made. */
  readonly #timers: Timer[] = []
  /** What was advanced, in ms. */
  #skipped = 0
  #next: unknown
  #advancing: Promise<void> = Promise.resolve()

  constructor(real: boolean) {
    this.#real = real
  }

  /** Milliseconds since the network was made. */
  get now(): number {
    return this.#skipped + (this.#real ? clock() - this.#start : 0)
  }

  /** Milliseconds since 1970, for what peers see. */
  get wall(): number {
    return Math.floor(this.#real ? wall() + this.#skipped : VIRTUAL_START + this.#skipped)
  }

  /** Runs it in so many ms; what is due at once needs no {@link advance}. */
  in(ms: number, run: () => void): void {
    if (ms <= 0) return this.tasks.post(run)
    const timer = { at: this.now + ms, run }
    let place = this.#timers.length
    while (place > 0 && (this.#timers[place - 1] as Timer).at > timer.at) place -= 1
    this.#timers.splice(place, 0, timer)
    this.#wait()
  }

  /** Lets so much time pass, and all that happens in it. Calls one after the other. */
  advance(ms: number): Promise<void> {
    this.#advancing = this.#advancing.then(() => this.#advance(ms))
    return this.#advancing
  }

  /** Forgets what was to come. */
  stop(): void {
    this.#timers.length = 0
    this.#wait()
  }

  async #advance(ms: number): Promise<void> {
    await this.tasks.settled()
    const end = this.now + ms
    for (;;) {
      const [next] = this.#timers
      if (!next || next.at > end) break
      this.#jump(next.at)
      this.#runDue()
      await this.tasks.settled()
    }
    this.#jump(end)
    this.#wait()
  }

  #jump(to: number): void {
    this.#skipped += Math.max(0, to - this.now)
  }

  #runDue(): void {
    while (this.#timers[0] && this.#timers[0].at <= this.now) this.#timers.shift()?.run()
  }

  /** Real time: wakes at the next timer. */
  #wait(): void {
    if (!this.#real) return
    cancel(this.#next)
    const [next] = this.#timers
    if (!next) return
    const wake = (): void => {
      this.#runDue()
      this.#wait()
    }
    this.#next = timeout(wake, Math.max(0, next.at - this.now))
  }
}
