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
  /** The WebAssembly, where the Worker's script cannot find it beside itself. */
  readonly wasm: (() => Promise<WebAssembly.Module>) | undefined
}
