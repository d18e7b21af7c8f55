/**
 * What differs between browsers and Node, and between `.` and `./inline`. `#runtime` is one of the four
 * files beside this one.
 */
import type { WorkerHost } from './link.js'

/** A Worker that the application made itself: from `iroh-rooms/worker`, by its own bundler. */
export interface WorkerLike {
  postMessage(message: unknown): void
  terminate(): unknown
}

/** Where the Worker's script is, or the Worker. */
export type WorkerSource = URL | string | WorkerLike

export interface Runtime {
  /** Throws `UNSUPPORTED_RUNTIME` naming the first feature that is missing. */
  check(): void
  /** Makes the Worker; the default script is the one beside this file. */
  startWorker(source: WorkerSource | undefined): WorkerHost
  /** The identity of an endpoint that is made for one room. */
  identity(): 'memory' | 'tab'
  /** How suited it is to vote and to lead: 0 mobile, 1 hidden tab, 2 visible tab, 3 Node. */
  priority(): number
  readonly store: Store
  /** The WebAssembly, where the Worker's script cannot find it beside itself. */
  readonly wasm: (() => Promise<WebAssembly.Module>) | undefined
}

/** Where states are kept from one run to the next. */
export interface Store {
  /** @param key - a name or an id, @param path - where the application says */
  locate(key: string, path: string | undefined): string
  read(location: string): Promise<Uint8Array | undefined>
  write(location: string, bytes: Uint8Array): Promise<void>
  /** Renames it, so that it is not read again and not lost. Gives the new name, for people. */
  setAside(location: string): Promise<string>
}
