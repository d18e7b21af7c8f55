/** Broadcasts of a core in TypeScript: tracks, and those who read them over a session. */
import type {
  BroadcastHandle,
  GroupHandle,
  ReadOptions,
  TrackHandle,
} from '../worker/core-module.js'
import { RoomsError } from '../src/errors.js'
import type { Datagram, Frame } from '../src/wire.js'
import type { Clock } from './clock.js'
import type { Session } from './session.js'
import { Changes, Stream, fail } from './stream.js'

/** What may be on its way to a reader, or wait there, that was not taken. */
const WINDOW_BYTES = 1 << 20
const WINDOW_FRAMES = 256
/** A reader that takes nothing for so long is not waited for, in ms. */
const STALLED_MS = 2_000
/** The same as of the core. */
export const MAX_DATAGRAM = 1_100
const MAX_TRACKS = 1_024

interface Group {
  readonly sequence: number
  /** Its place among the groups alone: datagrams count in `sequence`, too. */
  readonly ordinal: number
  readonly at: number
  readonly frames: Omit<Frame, 'missed'>[]
  ended: boolean
}

class GroupWriter implements GroupHandle {
  readonly #track: TestTrack
  readonly #group: Group

  constructor(track: TestTrack, group: Group) {
    this.#track = track
    this.#group = group
  }

  write(data: Uint8Array, timestampUs?: number): void {
    const { frames, sequence, ended } = this.#group
    if (ended) fail('CLOSED', 'the group is closed')
    const timestamp = timestampUs ?? this.#track.clock.wall * 1_000
    frames.push({ data: new Uint8Array(data), timestamp, group: sequence, index: frames.length })
    this.#track.pump()
  }

  finish(): void {
    this.#group.ended = true
    this.#track.pump()
  }

  abort(): void {
    this.finish()
  }

  free(): void {}
}

/** A track, as its writer has it. */
export class TestTrack implements TrackHandle {
  readonly clock: Clock
  readonly #maxAgeMs: number
  readonly #changes = new Changes()
  readonly readers: Set<Feed> = new Set()
  readonly datagramReaders: Set<Reader<Datagram>> = new Set()
  /** What is kept, oldest first. */
  groups: Group[] = []
  #sequence = 0
  #ordinal = 0
  end: { readonly error: RoomsError | undefined } | undefined

  constructor(clock: Clock, maxAgeMs: number) {
    this.clock = clock
    this.#maxAgeMs = maxAgeMs
  }

  write(data: Uint8Array, timestampUs?: number): number {
    const sequence = this.#sequence
    const group = this.group()
    group.write(data, timestampUs)
    group.finish()
    return sequence
  }

  group(): GroupHandle {
    this.#check()
    const at = this.clock.now
    const [sequence, ordinal] = [this.#sequence++, this.#ordinal++]
    const group: Group = { sequence, ordinal, at, frames: [], ended: false }
    this.groups.push(group)
    this.groups = this.groups.filter((kept) => at - kept.at <= this.#maxAgeMs)
    return new GroupWriter(this, group)
  }

  datagram(data: Uint8Array, timestampUs?: number): void {
    this.#check()
    if (data.byteLength > MAX_DATAGRAM) {
      fail('TOO_LARGE', `a datagram of ${data.byteLength} bytes`, { limit: MAX_DATAGRAM })
    }
    const sequence = this.#sequence++
    const timestamp = timestampUs ?? this.clock.wall * 1_000
    for (const { session, stream } of this.datagramReaders) {
      const copy = { data: new Uint8Array(data), timestamp, sequence }
      session.other.datagram(data.byteLength, () => stream.push(copy))
    }
  }

  isReady(): boolean {
    return ![...this.readers].some((feed) => feed.waits())
  }

  async ready(): Promise<boolean> {
    while (!this.isReady() && !this.end) {
      this.clock.in(STALLED_MS, () => this.wake())
      await this.#changes.next()
    }
    return !this.end
  }

  isUsed(): boolean {
    return this.readers.size + this.datagramReaders.size > 0
  }

  async used(): Promise<boolean> {
    while (!this.isUsed() && !this.end) await this.#changes.next()
    return !this.end
  }

  async unused(): Promise<boolean> {
    while (this.isUsed() && !this.end) await this.#changes.next()
    return !this.end
  }

  finish(): void {
    this.#finish(undefined)
  }

  abort(code: number): void {
    this.#finish(
      new RoomsError('TRACK_CLOSED', `the track was ended with code ${code}`, {
        details: { code },
      }),
    )
  }

  free(): void {}

  pump(): void {
    for (const feed of this.readers) feed.pump()
  }

  wake(): void {
    this.#changes.wake()
  }

  #finish(error: RoomsError | undefined): void {
    if (this.end) return
    this.end = { error }
    for (const group of this.groups) group.ended = true
    this.pump()
    for (const reader of this.datagramReaders) reader.tell(error)
    this.wake()
  }

  #check(): void {
    if (this.end) throw this.end.error ?? new RoomsError('CLOSED', 'the track is closed')
  }
}

export class TestBroadcast implements BroadcastHandle {
  readonly tracks: Map<string, TestTrack> = new Map()
  /** Takes it out of where it is published. */
  readonly withdraw: Set<() => void> = new Set()
  readonly #clock: Clock
  over = false

  constructor(clock: Clock) {
    this.#clock = clock
  }

  track(name: string, { maxAgeMs }: { maxAgeMs: number }): TrackHandle {
    if (this.tracks.has(name)) fail('INVALID_ARGUMENT', `there is a track ${name} already`)
    if (this.tracks.size >= MAX_TRACKS) fail('INTERNAL', `a broadcast has ${MAX_TRACKS} tracks`)
    const track = new TestTrack(this.#clock, maxAgeMs)
    this.tracks.set(name, track)
    return track
  }

  finish(): void {
    this.over = true
    for (const track of this.tracks.values()) track.finish()
    for (const withdraw of this.withdraw) withdraw()
  }

  abort(code: number): void {
    for (const track of this.tracks.values()) track.abort(code)
    this.finish()
  }

  free(): void {}
}

/** The reader's side of a subscription. */
export class Reader<T> {
  /** Of the reader. */
  readonly session: Session
  readonly stream: Stream<T>
  /** Of the writer. Set when it has heard of this reader. */
  stop: () => void = () => undefined

  constructor(session: Session, options: { cap?: number; onTake?: (item: T) => void } = {}) {
    this.session = session
    this.stream = new Stream<T>({
      ...options,
      onCancel: () => {
        session.readers.delete(this)
        session.send(0, () => this.stop())
      },
    })
    session.readers.add(this)
  }

  /** From the writer's side: the end, behind what was sent. */
  tell(error?: RoomsError): void {
    this.session.other.send(0, () => this.end(error))
  }

  end(error?: RoomsError): void {
    this.session.readers.delete(this)
    this.stream.end(error)
  }
}

/** The writer's side of a subscription: what of the track is sent, and when. */
export class Feed {
  readonly #track: TestTrack
  readonly #reader: Reader<Frame | { missed: number }>
  readonly #maxAgeMs: number
  /** The last group that is wanted, by its ordinal. */
  readonly #last: number
  /** The group that is being sent: its ordinal, and how many of its frames are on their way. */
  #ordinal: number
  #frames = 0
  #missed = 0
  #bytesAway = 0
  #framesAway = 0
  /** When the reader last took something, or was found to have nothing to take. */
  #moved: number

  constructor(
    track: TestTrack,
    reader: Reader<Frame | { missed: number }>,
    { maxAgeMs, start }: ReadOptions,
    only: boolean,
  ) {
    this.#track = track
    this.#reader = reader
    this.#maxAgeMs = maxAgeMs
    this.#moved = track.clock.now
    const newest = track.groups.at(-1)
    const wanted =
      start === undefined ? newest : track.groups.find(({ sequence }) => sequence >= start)
    this.#ordinal = wanted?.ordinal ?? (newest ? newest.ordinal + 1 : 0)
    this.#last = only ? this.#ordinal : Number.POSITIVE_INFINITY
    track.readers.add(this)
    track.wake()
    this.pump()
  }

  /** The reader has taken a frame. */
  taken(bytes: number): void {
    this.#bytesAway -= bytes
    this.#framesAway -= 1
    this.#moved = this.#track.clock.now
    this.pump()
    this.#track.wake()
  }

  stop(): void {
    this.#track.readers.delete(this)
    this.#track.wake()
  }

  /** Whether the writer is to wait: something cannot be sent now, but soon. */
  waits(): boolean {
    return this.#full() && this.#track.clock.now - this.#moved < STALLED_MS
  }

  pump(): void {
    const { groups, end, readers } = this.#track
    if (!readers.has(this)) return
    if (end?.error) return this.#finish(end.error)
    while (this.#ordinal <= this.#last) {
      const group = groups.find(({ ordinal }) => ordinal >= this.#ordinal)
      if (!group) break
      this.#lose(group.ordinal - this.#ordinal)
      const frame = group.frames[this.#frames]
      if (group.ended && !frame) this.#next()
      else if (this.#full()) break
      else if (this.#overtaken(group)) this.#lose(1)
      else if (frame) this.#send(frame)
      else break
    }
    const newest = groups.at(-1)
    const over = end && (!newest || newest.ordinal < this.#ordinal)
    if (over || this.#ordinal > this.#last) this.#finish(undefined)
  }

  #overtaken(group: Group): boolean {
    const newest = this.#track.groups.at(-1)
    if (!newest || newest === group || this.#last === group.ordinal) return false
    if (this.#maxAgeMs === 0) return true
    // What is not complete is waited for, for as long as the reader said.
    const left = this.#maxAgeMs - (this.#track.clock.now - newest.at)
    if (left > 0 && !group.ended) this.#track.clock.in(left, () => this.pump())
    return newest.at - group.at > this.#maxAgeMs || left <= 0
  }

  #full(): boolean {
    return this.#bytesAway >= WINDOW_BYTES || this.#framesAway >= WINDOW_FRAMES
  }

  #next(): void {
    this.#ordinal += 1
    this.#frames = 0
  }

  /** So many groups, from the one that is being sent on, are not sent (any further). */
  #lose(groups: number): void {
    if (groups === 0) return
    this.#missed += groups
    this.#ordinal += groups
    this.#frames = 0
  }

  #send(frame: Omit<Frame, 'missed'>): void {
    if (this.#framesAway === 0) this.#moved = this.#track.clock.now
    this.#frames += 1
    this.#bytesAway += frame.data.byteLength
    this.#framesAway += 1
    const item = { ...frame, data: new Uint8Array(frame.data), ...this.#told() }
    this.#reader.session.other.send(frame.data.byteLength, () => this.#reader.stream.push(item))
  }

  #told(): { missed?: number } {
    const missed = this.#missed
    this.#missed = 0
    return missed > 0 ? { missed } : {}
  }

  #finish(error: RoomsError | undefined): void {
    const { missed } = this.#told()
    if (missed !== undefined) {
      this.#reader.session.other.send(0, () => this.#reader.stream.push({ missed }))
    }
    this.#reader.tell(error)
    this.#reader.stop()
    this.stop()
  }
}
