import { RoomsError } from './errors.js'
import type { SignalOptions } from './internal/emitter.js'
import { type Link, closedError, deferred } from './internal/link.js'
import type { Handle, TrackDown, TrackPost, TrackUp } from '../worker/protocol.js'

/** `ready` waits while this much, or this many writes, wait for the network. */
const READY_BYTES = 1 << 20
const READY_WRITES = 256
/** A write is refused with `WRITE_FAILED` rather than have more than this on its way. */
const WAITING_BYTES = 16 << 20
/** Of a datagram: what fits every path. */
const DATAGRAM_BYTES = 1_100
/** Frames of at most this many bytes are posted together, if they come without a pause ... */
const BATCHED_BYTES = 4 << 10
/** ... so many microtasks long: those of a loop that awaits `ready`, but not a turn of the event loop. */
const BATCH_PATIENCE = 8
/** At most so many messages and bytes are posted together. */
const BATCH_MESSAGES = 64
const BATCH_BYTES = 64 << 10

/** How a track is sent. */
export interface TrackOptions {
  /** Higher goes first when bandwidth is short: 0 to 255, default 128. */
  readonly priority?: number
  /** How long a group is kept for those who come later or lag, in ms; default 5,000. */
  readonly maxAgeMs?: number
}

/** How a frame is written. */
export interface WriteOptions {
  /** Presentation time in µs; default: the time of writing. */
  readonly timestamp?: number
  /**
   * Hand the buffer over instead of copying it: afterwards it is empty here. Default false. Ignored
   * for views on part of a buffer.
   */
  readonly transfer?: boolean
}

/**
 * Something to publish: named tracks of groups of frames. Free-standing: made before or after
 * joining, published under any names into any rooms of one `Live`.
 *
 * @example
 * await using broadcast = new Broadcast()
 * const track = broadcast.track('clock')
 * await room.publish('clock', broadcast)
 * track.write(new TextEncoder().encode('tick'))
 */
export class Broadcast implements AsyncDisposable {
  readonly #tracks = new Set<TrackPipe>()
  readonly #closed = deferred<void>()
  #attached: { readonly link: Link; readonly handle: Handle } | undefined
  #over = false
  #finished = false

  /**
   * Makes a track. Until the broadcast is published, only the newest group of each track is kept.
   * @throws `CLOSED` after `close()`, `INVALID_ARGUMENT` for bad options. A name that is taken ends
   *   the new writer with the core's error: see {@link TrackWriter.closed}.
   */
  track(name: string, options: TrackOptions = {}): TrackWriter {
    if (this.#over) throw closedError('this broadcast')
    const { priority = 128, maxAgeMs = 5_000 } = options
    if (!Number.isInteger(priority) || priority < 0 || priority > 255) {
      throw new RoomsError('INVALID_ARGUMENT', 'priority is an integer from 0 to 255')
    }
    if (!(maxAgeMs >= 0 && maxAgeMs <= 600_000)) {
      throw new RoomsError('INVALID_ARGUMENT', 'maxAgeMs is from 0 to 600,000')
    }
    const pipe: TrackPipe = new TrackPipe(name, { priority, maxAgeMs }, () => {
      this.#tracks.delete(pipe)
    })
    this.#tracks.add(pipe)
    if (this.#attached) pipe.attach(this.#attached.link, this.#attached.handle)
    return new TrackWriter(pipe)
  }

  /** Settles when the broadcast is closed here. */
  get closed(): Promise<void> {
    return this.#closed.promise
  }

  /** Ends the broadcast and its tracks in good order, wherever it is published. Idempotent. */
  async close(): Promise<void> {
    this.#over = true
    const tracks = [...this.#tracks]
    for (const pipe of tracks) pipe.end(undefined)
    // Frames travel by ports of their own: they are to be there before the broadcast ends.
    await Promise.all(tracks.map((pipe) => pipe.closed))
    this.#finish(undefined)
  }

  /**
   * Ends the broadcast and its tracks as failed.
   * @param code - an application's code from 0 to 65,535, which readers get as `TRACK_CLOSED`
   */
  abort(code: number): void {
    checkCode(code)
    if (this.#over) return
    this.#over = true
    for (const pipe of this.#tracks) pipe.end(code)
    this.#finish(code)
  }

  /** The same as {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #finish(code: number | undefined): void {
    if (this.#finished) return
    this.#finished = true
    if (this.#attached) this.#attached.link.post('broadcastClose', [this.#attached.handle, code])
    this.#closed.resolve()
  }

  /**
   * @internal The handle in this link's Worker, made on first use. Everything is posted in order,
   * so nobody has to wait.
   */
  attach(link: Link): Handle {
    if (this.#over) throw closedError('this broadcast')
    if (!this.#attached) {
      const handle = link.newHandle()
      this.#attached = { link, handle }
      link.post('broadcastOpen', [handle])
      for (const pipe of this.#tracks) pipe.attach(link, handle)
    }
    if (this.#attached.link !== link) {
      throw new RoomsError(
        'INVALID_ARGUMENT',
        'a broadcast belongs to the Live that first published it: make one for each Live',
      )
    }
    return this.#attached.handle
  }
}

/** Writes one track. Groups are what readers can join at; frames of a group keep their order. */
export class TrackWriter implements AsyncDisposable {
  readonly #pipe: TrackPipe

  /** @internal */
  constructor(pipe: TrackPipe) {
    this.#pipe = pipe
  }

  /** The track's name. */
  get name(): string {
    return this.#pipe.name
  }

  /**
   * Writes one group of one frame. Copies the bytes once, and does not wait.
   * @throws `CLOSED`, `TRACK_CLOSED`; `WRITE_FAILED` when 16 MiB are on their way: await `ready`
   */
  write(bytes: Uint8Array, options: WriteOptions = {}): void {
    this.#pipe.data((data, ts) => ({ t: 'write', data, ts }), bytes, options, true)
  }

  /** Begins a group. Readers see its frames as they are written. */
  group(): GroupWriter {
    return new GroupWriter(this.#pipe, this.#pipe.group())
  }

  /**
   * Sends one datagram: at most 1,100 bytes, may be lost, never repeated; nothing before the
   * broadcast is published.
   * @throws `CLOSED`, `TRACK_CLOSED`; `TOO_LARGE`, and the track goes on
   */
  datagram(bytes: Uint8Array, options: WriteOptions = {}): void {
    this.#pipe.data((data, ts) => ({ t: 'datagram', data, ts }), bytes, options, false)
  }

  /**
   * Resolves when the network has taken so much that less than 1 MiB and 256 writes wait for it:
   * await it in a loop that writes, and the slowest reader's network sets the pace. One that takes
   * nothing for 2 s is not waited for. Resolves at once while nobody reads; rejects when the track has
   * ended.
   */
  get ready(): Promise<void> {
    return this.#pipe.ready()
  }

  /** Whether anybody reads this track now. */
  get demand(): boolean {
    return this.#pipe.demand
  }

  /** Resolves when somebody reads this track; at once if somebody does. Rejects when it ends. */
  used(options: SignalOptions = {}): Promise<void> {
    return this.#pipe.whenDemand(true, options.signal)
  }

  /** Resolves when nobody reads this track; at once if nobody does. Rejects when it ends. */
  unused(options: SignalOptions = {}): Promise<void> {
    return this.#pipe.whenDemand(false, options.signal)
  }

  /** Settles when the track has ended: `error` unless by {@link close}. Never rejects. */
  get closed(): Promise<{ readonly error?: RoomsError }> {
    return this.#pipe.closed
  }

  /** Ends the track in good order: readers get everything and then the end. Idempotent. */
  async close(): Promise<void> {
    this.#pipe.end(undefined)
    await this.closed
  }

  /** Ends the track as failed; readers get `TRACK_CLOSED` with this code, 0 to 65,535. */
  abort(code: number): void {
    checkCode(code)
    this.#pipe.end(code)
  }

  /** The same as {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Writes the frames of one group. */
export class GroupWriter implements Disposable {
  readonly #pipe: TrackPipe
  readonly #group: number

  /** @internal */
  constructor(pipe: TrackPipe, group: number) {
    this.#pipe = pipe
    this.#group = group
  }

  /** Writes the next frame. Throws as {@link TrackWriter.write} does. */
  write(bytes: Uint8Array, options: WriteOptions = {}): void {
    const group = this.#group
    this.#pipe.data((data, ts) => ({ t: 'frame', group, data, ts }), bytes, options, true)
  }

  /** Ends the group: no more frames. Idempotent. */
  close(): void {
    this.#pipe.groupEnd(this.#group, undefined)
  }

  /** Ends the group as failed, with a code from 0 to 65,535. */
  abort(code: number): void {
    checkCode(code)
    this.#pipe.groupEnd(this.#group, code)
  }

  /** The same as {@link close}. */
  [Symbol.dispose](): void {
    this.close()
  }
}

/** The way of one track's writes into the Worker. */
class TrackPipe {
  readonly name: string
  readonly #options: { priority: number; maxAgeMs: number }
  readonly #onEnd: () => void
  readonly #closed = deferred<{ readonly error?: RoomsError }>()
  #link: Link | undefined
  #port: MessagePort | undefined
  /** Before the broadcast is published: the newest group. */
  #kept: TrackUp[] = []
  /** What is posted together; see {@link TrackPipe.#send}. */
  #batch: TrackUp[] = []
  #batchBytes = 0
  /** Microtasks until the batch is posted. */
  #patience = 0
  #unacknowledged = 0
  #writes = 0
  #groups = 0
  #waiting: (() => void)[] = []
  #end: { readonly error: RoomsError | undefined } | undefined
  demand = false

  constructor(name: string, options: { priority: number; maxAgeMs: number }, onEnd: () => void) {
    this.name = name
    this.#options = options
    this.#onEnd = onEnd
  }

  get closed(): Promise<{ readonly error?: RoomsError }> {
    return this.#closed.promise
  }

  attach(link: Link, broadcast: Handle): void {
    const { port1, port2 } = link.newChannel((error) => this.#finish(error))
    this.#link = link
    this.#port = port1
    port1.addEventListener('message', (event: MessageEvent<TrackDown>) => this.#receive(event.data))
    port1.start()
    link
      .call('trackOpen', [broadcast, this.name, this.#options, port2], { transfer: [port2] })
      .catch((error: RoomsError) => this.#finish(error))
    for (const message of this.#kept) this.#send(message)
    this.#kept = []
  }

  data(
    message: (data: Uint8Array, ts: number | undefined) => TrackUp,
    bytes: Uint8Array,
    { timestamp, transfer = false }: WriteOptions,
    keep: boolean,
  ): void {
    this.#check()
    if (!(bytes instanceof Uint8Array)) {
      throw new RoomsError('INVALID_ARGUMENT', 'a frame is a Uint8Array')
    }
    const size = bytes.byteLength
    const [what, limit] = keep ? ['frame', WAITING_BYTES] : ['datagram', DATAGRAM_BYTES]
    if (size > limit) {
      const text = `a ${what} of ${size} bytes is over the limit of ${limit}`
      throw new RoomsError('TOO_LARGE', text, { details: { limit } })
    }
    if (this.#unacknowledged + size > WAITING_BYTES) {
      throw new RoomsError(
        'WRITE_FAILED',
        `track ${this.name}: ${this.#unacknowledged} bytes are on their way to the Worker: await writer.ready in the loop that writes`,
      )
    }
    const { buffer } = bytes
    const handOver =
      transfer && buffer instanceof ArrayBuffer && buffer.byteLength === bytes.byteLength
    if (!this.#port) {
      if (keep) this.#keep(message(copy(bytes), timestamp))
      return
    }
    this.#send(message(bytes, timestamp), handOver ? [buffer] : [])
  }

  group(): number {
    this.#check()
    this.#groups += 1
    const message: TrackUp = { t: 'group', group: this.#groups }
    if (this.#port) this.#send(message)
    else this.#keep(message)
    return this.#groups
  }

  groupEnd(group: number, code: number | undefined): void {
    if (this.#end) return
    const message: TrackUp = { t: 'group-end', group, code }
    if (this.#port) this.#send(message)
    else this.#keep(message)
  }

  end(code: number | undefined): void {
    if (this.#end) return
    const message: TrackUp = { t: 'end', code }
    this.#end = { error: undefined }
    this.#wake()
    // The port stays until the Worker has taken what is on its way and says so.
    if (this.#port) return this.#send(message)
    // It can still be published: what is kept of it, and that it has ended.
    this.#kept.push(message)
    this.#closed.resolve({})
  }

  async ready(): Promise<void> {
    while (!this.#end && (this.#unacknowledged >= READY_BYTES || this.#writes >= READY_WRITES)) {
      await this.#change()
    }
    this.#check()
  }

  async whenDemand(wanted: boolean, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted()
    const wake = (): void => this.#wake()
    signal?.addEventListener('abort', wake)
    try {
      while (!this.#end && this.demand !== wanted) {
        await this.#change()
        signal?.throwIfAborted()
      }
      this.#check()
    } finally {
      signal?.removeEventListener('abort', wake)
    }
  }

  #keep(message: TrackUp): void {
    const ofNewestGroup = 'group' in message && this.#kept.some((kept) => sameGroup(kept, message))
    if (ofNewestGroup) this.#kept.push(message)
    // An older group than the one that is kept is of no use to anybody who comes later.
    else if (message.t === 'write' || message.t === 'group') this.#kept = [message]
  }

  /** Small messages wait for those that follow without a pause, and are posted as one. */
  #send(message: TrackUp, transfer: Transferable[] = []): void {
    const size = 'data' in message ? message.data.byteLength : 0
    if ('data' in message) {
      this.#unacknowledged += size
      this.#writes += 1
    }
    if (size > BATCHED_BYTES || transfer.length > 0) {
      this.#flush()
      this.#port?.postMessage(message, transfer)
      return
    }
    this.#batch.push('data' in message ? { ...message, data: copy(message.data) } : message)
    this.#batchBytes += size
    if (this.#batch.length >= BATCH_MESSAGES || this.#batchBytes >= BATCH_BYTES) this.#flush()
    else if (this.#patience > 0) this.#patience = BATCH_PATIENCE
    else {
      this.#patience = BATCH_PATIENCE
      queueMicrotask(this.#wait)
    }
  }

  readonly #wait = (): void => {
    this.#patience -= 1
    if (this.#patience > 0) queueMicrotask(this.#wait)
    else this.#flush()
  }

  #flush(): void {
    const v = this.#batch
    const [first] = v
    if (!first) return
    this.#batch = []
    this.#batchBytes = 0
    this.#port?.postMessage((v.length > 1 ? { t: 'batch', v } : first) satisfies TrackPost)
  }

  #receive(message: TrackDown | null): void {
    switch (message?.t) {
      case 'ack':
        if (typeof message.bytes !== 'number' || typeof message.n !== 'number') return
        this.#unacknowledged = Math.max(0, this.#unacknowledged - message.bytes) || 0
        this.#writes = Math.max(0, this.#writes - message.n) || 0
        this.#wake()
        return
      case 'demand':
        this.demand = message.used
        this.#wake()
        return
      case 'closed':
        this.#finish(message.error && trackError(this.name, message.error))
        return
    }
  }

  #finish(error: RoomsError | undefined): void {
    if (this.#port) this.#link?.closePort(this.#port)
    this.#end ??= { error }
    this.demand = false
    this.#wake()
    this.#onEnd()
    this.#closed.resolve(error ? { error } : {})
  }

  #check(): void {
    if (this.#end) throw this.#end.error ?? closedError(`track ${this.name}`)
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve))
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }
}

/**
 * The bytes as they are now: cloning happens only when they are posted. Not by `slice`, which for
 * Node's Buffer is a view on the same bytes.
 */
function copy(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}

function checkCode(code: number): void {
  if (Number.isInteger(code) && code >= 0 && code <= 0xffff) return
  throw new RoomsError('INVALID_ARGUMENT', 'a code is an integer from 0 to 65,535')
}

function sameGroup(kept: TrackUp, message: TrackUp & { group: number }): boolean {
  return 'group' in kept && kept.group === message.group
}

function trackError(name: string, wire: unknown): RoomsError {
  const data = RoomsError.toData(wire)
  return RoomsError.from({ ...data, message: `track ${name}: ${data.message}` })
}
