import type { Broadcast } from './broadcast.js'
import { closedError } from './internal/link.js'
import { Emitter, type Off, type SignalOptions } from './internal/emitter.js'
import type { RoomHandle } from './room.js'

/** What a {@link RoomPublisher} publishes. */
export interface PublishState {
  /** Pictures of the camera. */
  readonly camera: boolean
  /** Sound of the microphone; it goes with the camera's broadcast. */
  readonly microphone: boolean
  /** The screen. */
  readonly screen: boolean
}

/** Where the broadcasts of a {@link RoomPublisher} come from. Each is asked for a new one each time. */
export interface PublishSources {
  /** Makes the broadcast `camera`, of camera and microphone. */
  readonly camera: () => Promise<Broadcast>
  /** Makes the broadcast `screen`. Without it `screen` does nothing. */
  readonly screen?: () => Promise<Broadcast>
}

/** The listeners of a {@link RoomPublisher}. */
export interface PublisherListeners {
  /** The state has changed; mute and unmute tracks by it. */
  state: (event: { readonly type: 'state'; readonly state: PublishState }) => void
}

type Source = 'camera' | 'screen'

const SOURCES: readonly Source[] = ['camera', 'screen']

/**
 * Publishes what a participant usually does: `camera`, with sound, from the start on, and `screen`
 * while it is shared. Say what is to be; it makes, publishes, withdraws and ends the broadcasts.
 *
 * @example
 * await using publisher = new RoomPublisher(room, { camera: openCamera, screen: openScreen })
 * await publisher.setState({ screen: true })
 */
export class RoomPublisher implements AsyncDisposable {
  readonly #room: RoomHandle
  readonly #sources: PublishSources
  readonly #emitter = new Emitter<PublisherListeners>()
  readonly #published = new Map<Source, Broadcast>()
  #state: PublishState
  #over = false
  #work: Promise<void> | undefined

  /** @param state - what to begin with; default: camera and microphone */
  constructor(room: RoomHandle, sources: PublishSources, state: Partial<PublishState> = {}) {
    this.#room = room
    this.#sources = sources
    this.#state = Object.freeze({ camera: true, microphone: true, screen: false, ...state })
    // Whoever wants to know how the start went calls setState.
    this.#settle().catch(() => undefined)
  }

  /** What is asked for, and published as soon as it is made. */
  get state(): PublishState {
    return this.#state
  }

  /**
   * Says what is to be published; what is not named stays. Resolves when it is so, or when a later
   * call's is: the last state wins. Idempotent.
   * @throws what a source throws, after taking back what asked for it; `CLOSED`
   */
  async setState(state: Partial<PublishState>): Promise<void> {
    if (this.#over) throw closedError('this publisher')
    this.#change(state)
    await this.#settle()
  }

  /** Calls the listener on each change of the state, until the returned function is called. */
  on<K extends keyof PublisherListeners>(
    type: K,
    listener: PublisherListeners[K],
    options: SignalOptions = {},
  ): Off {
    return this.#emitter.on(type, listener, options)
  }

  /** Withdraws and ends everything. Idempotent, never rejects. */
  async close(): Promise<void> {
    this.#over = true
    this.#change({ camera: false, microphone: false, screen: false })
    await this.#settle().catch(() => undefined)
  }

  /** The same as {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #change(change: Partial<PublishState>): void {
    const state = Object.freeze({ ...this.#state, ...change })
    const fields = ['camera', 'microphone', 'screen'] as const
    if (fields.every((field) => state[field] === this.#state[field])) return
    this.#state = state
    this.#emitter.emit('state', { type: 'state', state })
  }

  #wanted(source: Source): boolean {
    const { camera, microphone, screen } = this.#state
    return source === 'camera' ? camera || microphone : screen && this.#sources.screen !== undefined
  }

  /** One at a time: each step looks at what is wanted by then. */
  async #settle(): Promise<void> {
    for (;;) {
      const source = SOURCES.find((name) => this.#wanted(name) !== this.#published.has(name))
      if (this.#work) await this.#work
      else if (source === undefined) return
      else await this.#step(source)
    }
  }

  #step(source: Source): Promise<void> {
    const step = this.#wanted(source) ? this.#begin(source) : this.#end(source)
    this.#work = step.finally(() => {
      this.#work = undefined
    })
    return this.#work
  }

  async #begin(source: Source): Promise<void> {
    try {
      const broadcast = await this.#sources[source]?.()
      if (!broadcast) return
      this.#published.set(source, broadcast)
      // It may not be wanted any more: then nobody is to see it.
      if (this.#wanted(source)) await this.#room.publish(source, broadcast)
    } catch (error) {
      await this.#end(source)
      this.#change(source === 'camera' ? { camera: false, microphone: false } : { screen: false })
      throw error
    }
  }

  async #end(source: Source): Promise<void> {
    const broadcast = this.#published.get(source)
    this.#published.delete(source)
    // A room that is left has withdrawn it.
    await this.#room.unpublish(source).catch(() => undefined)
    await broadcast?.close()
  }
}
