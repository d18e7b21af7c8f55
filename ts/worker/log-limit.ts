import type { LogEntry } from '../src/wire.js'

/** Entries in a second; peers can cause some, so there is an end to it. What is beyond is counted. */
const PER_SECOND = 20

/** Passes on so many entries in a second, and says how many it left out before. */
export class LogLimit {
  readonly #pass: (entry: LogEntry) => void
  readonly #now: () => number
  #second = -1
  #passed = 0
  #dropped = 0

  constructor(pass: (entry: LogEntry) => void, now: () => number = () => performance.now()) {
    this.#pass = pass
    this.#now = now
  }

  pass(entry: LogEntry): void {
    const second = Math.floor(this.#now() / 1_000)
    if (second !== this.#second) {
      this.#second = second
      this.#passed = 0
    }
    this.#passed += 1
    if (this.#passed > PER_SECOND) {
      this.#dropped += 1
      return
    }
    if (this.#dropped > 0) {
      const message = `${this.#dropped} more entries in the seconds before were left out`
      this.#dropped = 0
      this.#pass({ level: 'warn', target: 'iroh_rooms::log', message })
    }
    this.#pass(entry)
  }
}
