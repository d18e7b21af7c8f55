/** Typed listeners. One that throws goes to `reportError` and stops nobody. */

/** `{ signal }`, as everything that listens or waits takes it. */
export interface SignalOptions {
  /** Ends it when it fires. */
  readonly signal?: AbortSignal
}

/** Takes a listener off again. */
export type Off = () => void

export class Emitter<L extends { [K in keyof L]: (event: never) => void }> {
  readonly #listeners = new Map<keyof L, Set<(event: never) => void>>()

  on<K extends keyof L>(type: K, listener: L[K], options: SignalOptions = {}): Off {
    const { signal } = options
    if (signal?.aborted) return () => undefined
    const listeners = this.#listeners.get(type) ?? new Set()
    this.#listeners.set(type, listeners)
    // A wrapper each time: one function may be registered twice, and taken off once.
    const entry = (event: never): void => listener(event)
    const off = (): void => {
      listeners.delete(entry)
      signal?.removeEventListener('abort', off)
    }
    listeners.add(entry)
    signal?.addEventListener('abort', off)
    return off
  }

  once<K extends keyof L>(type: K, listener: L[K], options: SignalOptions = {}): Off {
    const off = this.on(
      type,
      ((event: never) => {
        off()
        listener(event)
      }) as L[K],
      options,
    )
    return off
  }

  /** Whether anybody listens. */
  heard(type: keyof L): boolean {
    return (this.#listeners.get(type)?.size ?? 0) > 0
  }

  emit<K extends keyof L>(type: K, event: Parameters<L[K]>[0]): void {
    // A copy: who is added by a listener hears from the next event on.
    for (const listener of Array.from(this.#listeners.get(type) ?? [])) {
      try {
        listener(event)
      } catch (error) {
        report(error)
      }
    }
  }
}

/** Hands an error to the platform's handler for uncaught ones. */
export function report(error: unknown): void {
  if (typeof reportError === 'function') reportError(error)
  // Node has no reportError: throw where nobody of ours is on the stack.
  else
    queueMicrotask(() => {
      throw error
    })
}
