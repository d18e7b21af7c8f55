import { RoomsError } from './errors.js'
import type { Subscription } from './events.js'
import type { SignalOptions } from './internal/emitter.js'
import type { Link } from './internal/link.js'
import { FRAMES_WINDOW, type PortStream } from './internal/port-stream.js'
import type { ScopeId } from '../worker/protocol.js'
import type { Datagram, EndpointId, Frame } from './wire.js'

/** How a track is read. */
export interface ReadOptions extends SignalOptions {
  /** Higher comes first when bandwidth is short: 0 to 255, default 128. */
  readonly priority?: number
  /** How late a group may come before it is skipped, in ms; 0, the default: always the newest. */
  readonly maxAgeMs?: number
  /** Sequence number of the first group; default: the newest. */
  readonly start?: number
  /** Whether groups come by number rather than by arrival. Default true. */
  readonly ordered?: boolean
}

/**
 * A peer's broadcast: a name, not a connection. It lives on across reconnects, and reading a track
 * costs nothing until the track is read.
 */
export class RemoteBroadcast {
  /** Whose it is. */
  readonly remoteId: EndpointId
  /** Its name. */
  readonly name: string
  readonly #link: Link
  readonly #scope: ScopeId
  #closed: Promise<void> | undefined

  /** @internal */
  constructor(link: Link, scope: ScopeId, remoteId: EndpointId, name: string) {
    this.#link = link
    this.#scope = scope
    this.remoteId = remoteId
    this.name = name
  }

  /**
   * Reads a track. Errors, such as `NOT_ANNOUNCED` for a track that is not there, come to the
   * reader. While nobody reads, 64 frames or 4 MiB wait, and the track's own age limit drops the
   * rest.
   */
  track(name: string, options: ReadOptions = {}): TrackReader {
    const { priority = 128, maxAgeMs = 0, start, ordered = true, signal } = options
    if (!Number.isInteger(priority) || priority < 0 || priority > 255) {
      throw new RoomsError('INVALID_ARGUMENT', 'priority is an integer from 0 to 255')
    }
    const read = { priority, maxAgeMs, ordered, ...(start === undefined ? {} : { start }) }
    const lost = { groups: 0 }
    const frames = this.#link.stream(
      'readTrack',
      [this.#scope, this.remoteId, this.name, name, read],
      {
        window: FRAMES_WINDOW,
        map: (item: Frame | Lost) => {
          lost.groups += item.missed ?? 0
          return 'data' in item ? item : undefined
        },
        sizeOf,
        signal,
      },
    )
    return new TrackReader(name, frames, lost)
  }

  /**
   * Reads a track's datagrams, which are not part of its groups: small, in no order, perhaps lost.
   * While nobody reads, 64 wait, and then the oldest in the core are dropped.
   */
  datagrams(track: string, options: SignalOptions = {}): Subscription<Datagram> {
    return this.#link.stream('readDatagrams', [this.#scope, this.remoteId, this.name, track], {
      window: FRAMES_WINDOW,
      map: (datagram: Datagram) => datagram,
      sizeOf,
      ...options,
    })
  }

  /**
   * Fetches the frames of one group, also of one that is older than readers want; it must still be
   * kept, here or by its writer. Errors come to the reader: `NOT_ANNOUNCED` or `LAGGED` for a group
   * that is not there (any more).
   * @param sequence - the group's number
   */
  fetch(track: string, sequence: number, options: SignalOptions = {}): Subscription<Frame> {
    return this.#link.stream(
      'fetchGroup',
      [this.#scope, this.remoteId, this.name, track, sequence],
      { window: FRAMES_WINDOW, map: (frame: Frame) => frame, sizeOf, ...options },
    )
  }

  /** Settles when the broadcast has ended, or its room or `Live` is closed. Never rejects. */
  get closed(): Promise<void> {
    this.#closed ??= this.#link
      .call('broadcastClosed', [this.#scope, this.remoteId, this.name])
      .catch(() => undefined)
    return this.#closed
  }
}

/**
 * Reads one track: as groups, as frames, or as a ReadableStream; use one of the three. Ends by
 * `break`, `close()`, its signal, `await using`, or with the track.
 *
 * @example
 * for await (const group of reader) {
 *   for await (const frame of group) console.log(group.sequence, frame.data.length)
 * }
 */
export class TrackReader implements AsyncIterable<GroupReader>, AsyncDisposable {
  /** The track's name. */
  readonly name: string
  readonly #frames: PortStream<Frame>
  readonly #lost: { readonly groups: number }

  /** @internal */
  constructor(name: string, frames: PortStream<Frame>, lost: { readonly groups: number }) {
    this.name = name
    this.#frames = frames
    this.#lost = lost
  }

  /**
   * How many groups this reader asked for and did not get whole: overtaken by newer ones, too old,
   * or no longer kept. Frames and groups say how many were lost before them.
   */
  get missed(): number {
    return this.#lost.groups
  }

  /** One frame after the other, whichever their group. */
  frames(): Subscription<Frame> {
    return this.#frames
  }

  /**
   * One group after the other. Going on to the next group drops what was not read of the one
   * before.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<GroupReader, undefined, undefined> {
    let last: GroupReader | undefined
    try {
      for (;;) {
        const first = last ? await last.skip() : await take(this.#frames)
        if (!first) return undefined
        last = new GroupReader(this.#frames, first)
        yield last
      }
    } finally {
      await this.close()
    }
  }

  /** The frames as a stream of the platform. Cancelling it closes the reader. */
  toReadable(): ReadableStream<Frame> {
    const frames = this.#frames
    return new ReadableStream<Frame>(
      {
        async pull(controller): Promise<void> {
          const { done, value } = await frames.next()
          if (done) controller.close()
          else controller.enqueue(value)
        },
        async cancel(): Promise<void> {
          await frames.return()
        },
      },
      // The reader has a window of its own: nothing is taken ahead.
      { highWaterMark: 0 },
    )
  }

  /** Ends reading. Idempotent. */
  async close(): Promise<void> {
    await this.#frames.return()
  }

  /** The same as {@link close}. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Reads the frames of one group, once. */
export class GroupReader implements AsyncIterable<Frame> {
  /** The group's number: each is higher than those written before it. */
  readonly sequence: number
  /** How many groups were lost to this reader right before this one. */
  readonly missed: number
  readonly #frames: PortStream<Frame>
  /** Frames of this group that were taken from the stream and not yet given out: at most one. */
  #first: Frame | undefined
  /** Set when the group has ended: the first frame of the next, if any. */
  #next: { readonly frame: Frame | undefined } | undefined

  /** @internal */
  constructor(frames: PortStream<Frame>, first: Frame) {
    this.sequence = first.group
    this.missed = first.missed ?? 0
    this.#frames = frames
    this.#first = first
  }

  /** The next frame, or undefined at the end of the group. */
  async next(): Promise<Frame | undefined> {
    if (this.#first) {
      const frame = this.#first
      this.#first = undefined
      return frame
    }
    if (this.#next) return undefined
    const frame = await take(this.#frames)
    if (frame?.group === this.sequence) return frame
    this.#next = { frame }
    return undefined
  }

  /** The frames, to the end of the group. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Frame, undefined, undefined> {
    for (;;) {
      const frame = await this.next()
      if (!frame) return undefined
      yield frame
    }
  }

  /** @internal Reads to the end of the group; the first frame of the next group. */
  async skip(): Promise<Frame | undefined> {
    while (await this.next());
    return this.#next?.frame
  }
}

/** Groups that were lost at the end of a track, after its last frame. */
interface Lost {
  readonly missed: number
}

function sizeOf(item: { readonly data?: Uint8Array }): number {
  return item.data?.byteLength ?? 0
}

async function take(frames: PortStream<Frame>): Promise<Frame | undefined> {
  const { value } = await frames.next()
  return value
}
