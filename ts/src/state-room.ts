/**
 * Rooms with a doorman and an agreed state. Loaded before room.ts, whose class it extends, and which
 * makes these rooms.
 */
import type {
  Decision,
  Question,
  Standing,
  StateRoomHow,
  StateRoomOptions as WireOptions,
} from '../worker/protocol.js'
import { toJson } from './channel.js'
import { RoomsError } from './errors.js'
import type { DeepReadonly, RoomEvent, StateUpdate, Subscription } from './events.js'
import type { SignalOptions } from './internal/emitter.js'
import { deferred } from './internal/link.js'
import { freezeDeep, jsonPatch, mergePatch } from './internal/patch.js'
import { EVENTS_WINDOW, type PortStream } from './internal/port-stream.js'
import { RoomShared, eventMapper } from './internal/room-shared.js'
import { Saver, type Place, placeOf } from './internal/saver.js'
import { StateLog, StateReader } from './internal/state-log.js'
import { Live, type LiveOptions } from './live.js'
import { type EventsOptions, Room, type RoomOptions } from './room.js'
import { RoomTicket } from './ticket.js'
import type { Consensus, EndpointId, Json, Participant, Peer, WireChange } from './wire.js'
import { runtime } from '#runtime'

/** A merge patch (RFC 7396) of a state: the members to set; null takes one out. */
export type MergePatch<S> = [Json] extends [S]
  ? S
  : S extends readonly unknown[]
    ? S
    : S extends object
      ? { readonly [K in keyof S]?: MergePatch<S[K]> | null }
      : S

/** An operation of a JSON patch (RFC 6902). A `test` that fails refuses the patch as a whole. */
export type JsonPatchOperation =
  | {
      readonly op: 'add' | 'replace' | 'test'
      readonly path: string
      readonly value: unknown
    }
  | { readonly op: 'remove'; readonly path: string }
  | { readonly op: 'move' | 'copy'; readonly path: string; readonly from: string }

/** What every participant knows alike about a change. */
export interface ChangeContext {
  /** Its place in the order. */
  readonly index: number
  /** Who proposed it, proven by a signature. */
  readonly author: EndpointId
  /** The doorman's clock, in ms since 1970. Do not use another. */
  readonly time: number
  /** 16 hex digits, made of all that was decided before: for dice and shuffling among those who play fair. */
  readonly seed: string
}

/** Who asks to come in. */
export interface Hello {
  /** The name it wants to have. */
  readonly participantId: string
  /** Its endpoint id, proven. */
  readonly endpointId: EndpointId
  /** What it shows, by the option `proof`. */
  readonly proof?: Uint8Array
}

/**
 * Options of `Room.create`, `Room.join` and `Room.joinOrCreate`. All participants give the same
 * `admit`, `reducer`, `validate` and `consent`: anyone may become the doorman, and each replica makes
 * every change. `S` is the state, `C` a change.
 */
export interface StateRoomOptions<S = Json, C = MergePatch<S>> extends RoomOptions {
  /**
   * The endpoint to use, which stays open when the room is left; or how to make one for this room
   * alone, which is closed with it. Its identity is by default `'tab'` in browsers: a reload is the
   * same participant.
   */
  readonly live?: Live | LiveOptions
  /** Relays of the endpoint that is made; see {@link LiveOptions}. Default: those of the ticket. */
  readonly relay?: LiveOptions['relay']
  /**
   * Decides on the doorman's side who may come in: true, or false, or why not. It may take 30 s, as
   * long as a person needs; after that the answer is no. Default: everybody.
   */
  readonly admit?: (
    hello: Hello,
    options: { readonly signal: AbortSignal },
  ) => boolean | string | Promise<boolean | string>
  /**
   * Makes the next state of a change; without one, changes are merge patches and JSON patches. Runs at
   * every participant and must come to the same there: no clock, no randomness but those of `context`.
   * One that throws, gives a promise, or takes more than 5 s ends this
   * replica's voting.
   */
  readonly reducer?: (state: DeepReadonly<S>, change: C, context: ChangeContext) => S
  /**
   * Whether a change may be made: true or nothing, or false, or why not. Runs at every participant,
   * under the same rules as `reducer`. A refused change changes nothing, anywhere.
   */
  readonly validate?: (
    change: C,
    state: DeepReadonly<S>,
    context: ChangeContext,
  ) => boolean | string | void
  /**
   * `'guard'`, the default: a change is made if `validate` says so. `'majority'`: also more than half of
   * the participants have to agree to it, with signatures; see `consent`. Who creates decides.
   */
  readonly approval?: 'guard' | 'majority'
  /** With `'majority'`: whether this participant agrees, within 15 s. Default: it does. */
  readonly consent?: (
    change: C,
    context: { readonly author: EndpointId; readonly signal: AbortSignal },
  ) => boolean | Promise<boolean>
  /**
   * `'local'` keeps the state on this machine after each change: in IndexedDB in browsers, in
   * `.iroh-rooms/` in Node. Or the path of a file (Node). Default: it is not kept.
   */
  readonly persist?: 'local' | { readonly path: string }
  /**
   * Begins with a state that was kept, if there is one: true for what `persist` kept of the room of
   * this name (or in this file); the id of a room for what was kept of that one; or what `saved()`
   * gave. Only for who creates.
   */
  readonly restore?: boolean | string | Uint8Array
  /**
   * What happens when the majority is gone: `'auto'`, the default: those who are left go on by
   * themselves if that loses nothing; `'manual'`: only by `recover`; `'never'`.
   */
  readonly recovery?: 'auto' | 'manual' | 'never'
  /** How many vote at most: 1, 3, 5 or 7. Default 5. Who creates decides. */
  readonly voters?: 1 | 3 | 5 | 7
  /** Endpoint ids of those who may kick, lock and rotate, beside the creator. */
  readonly moderators?: readonly EndpointId[]
  /** Whether `update` waits while the room is read-only. Default: it rejects with `NO_QUORUM`. */
  readonly queue?: boolean
  /** What `admit` is shown, such as a signature or a password: at most 4 KiB. */
  readonly proof?: Uint8Array
  /** 32 bytes that name the application's version: other versions are refused. */
  readonly app?: Uint8Array
  /** How long `join` looks for the room, in ms. Default 10,000. */
  readonly joinTimeoutMs?: number
}

/** Options of {@link StateRoom.update}. */
export interface UpdateOptions extends SignalOptions {
  /** Makes the change only if nothing was changed after this index: `consensus.index` as it was read. */
  readonly ifIndex?: number
  /** How the change is written; without meaning where there is a reducer. Default `'merge-patch'`. */
  readonly format?: 'merge-patch' | 'json-patch'
}

/** How long `join` looks for a room. */
const JOIN_TIMEOUT_MS = 10_000
/** While a room is read-only, a queued change looks this often, in ms, besides when it hears so. */
const QUEUE_RETRY_MS = 500
const PARTICIPANT_BYTES = 64
const PROOF_BYTES = 4_096

const NOT_ENTERED: Consensus = Object.freeze({
  status: 'read-only',
  isDoorman: false,
  epoch: '',
  epochNumber: 0,
  term: 0,
  index: 0,
  voters: Object.freeze([]),
  learners: Object.freeze([]),
})

/**
 * A room with a doorman: a room id is enough to find it, somebody decides who comes in, and all
 * participants have the same state. `Room.create`, `Room.join` and `Room.joinOrCreate` make it.
 *
 * It is there before it is entered. Until `ready` its status is `connecting`, `id` of a keyed room is
 * empty, nobody is in `peers`, and up to 64 commands wait; they reject with `ready`'s error.
 *
 * @example
 * const room = Room.join<Game>('bob', id)
 * room.on('state-update', (change, state) => render(state))
 * await room.ready
 * await room.update({ turn: 'alice' })
 */
export class StateRoom<S = Json, C = MergePatch<S>> extends Room<DeepReadonly<S>> {
  /**
   * Resolves to this room when it is entered. Nobody has to wait for it: that it rejects is not an
   * unhandled rejection.
   * @throws `ROOM_EXISTS`, `ROOM_NOT_FOUND`, `REFUSED`, `PARTICIPANT_ID_TAKEN`, `INVALID_ARGUMENT`,
   * `INVALID_TICKET`, `CLOSED`, and what `Live.spawn` throws
   */
  readonly ready: Promise<this>
  readonly #options: StateRoomOptions<S, C>
  readonly #log: StateLog
  readonly #giveUp: AbortController
  /** Who waits for a change, or for a quorum. */
  readonly #waiting = new Set<() => void>()
  #state: DeepReadonly<S> | undefined
  #index = 0
  #standing: Standing = { consensus: NOT_ENTERED, participants: [] }
  #saver: Saver | undefined
  /** The events of the cursor, once the room is entered. */
  #cursor: PortStream<never> | undefined

  /** @internal */
  constructor(
    how: StateRoomHow,
    participantId: string,
    name: string | undefined,
    initialState: S | undefined,
    options: StateRoomOptions<S, C> = {},
  ) {
    const giveUp = new AbortController()
    const { live, displayName } = options
    const self: Peer = {
      id: live instanceof Live ? live.endpointId : '',
      participantId,
      broadcasts: [],
      joinedAt: Date.now(),
      ...(displayName === undefined ? {} : { displayName }),
    }
    const log = new StateLog()
    const shared = new RoomShared(live instanceof Live ? live : undefined, self, {
      giveUp: () =>
        giveUp.abort(new RoomsError('CLOSED', 'the room was left before it was entered')),
      lastWords: async () => this.#saver?.flush(),
    })
    super(shared)
    this.#options = options
    this.#log = log
    this.#giveUp = giveUp
    this.#watchDoorman()
    this.ready = this.#open(how, participantId, name, initialState)
    this.ready.catch((error: unknown) => shared.fail(error))
    shared.cursor = new StateReader(
      log,
      this.ready.then(() => this.#cursor as PortStream<never>),
      undefined,
    )
    void shared.closed.then(() => {
      log.end()
      this.#wake()
    })
  }

  /** What all agree on, deep-frozen, the same object until the next change; undefined before it is known. */
  get state(): DeepReadonly<S> | undefined {
    return this.#state
  }

  /** How the agreement stands. A new object each time that it changes. */
  get consensus(): Consensus {
    return this.#standing.consensus
  }

  /** Who belongs to the room, this one included, whether reachable or not. */
  get participants(): readonly Participant[] {
    return this.#standing.participants
  }

  /** Who may kick, lock and rotate, of those who are here. */
  get moderators(): readonly EndpointId[] {
    return this.participants.filter(({ moderator }) => moderator).map(({ id }) => id)
  }

  /**
   * Proposes a change. Resolves when a majority has it and `state` shows it.
   *
   * It ends in one of three ways: made; refused, with `UPDATE_REJECTED`, and then it never will be; or
   * `UPDATE_UNKNOWN`, when the answer was lost: look at the state, and repeat what may be made twice,
   * or what has a precondition (`ifIndex`, or a `test` in a JSON patch). An abort only ends the waiting.
   *
   * @param change - a merge patch, a JSON patch, or what the reducer reads; at most 64 KiB of JSON
   * @throws `UPDATE_REJECTED`, `UPDATE_UNKNOWN`, `NO_QUORUM`, `TOO_LARGE`, `CLOSED`
   */
  update(
    change: readonly JsonPatchOperation[],
    options: UpdateOptions & { readonly format: 'json-patch' },
  ): Promise<{ readonly index: number }>
  update(change: C, options?: UpdateOptions): Promise<{ readonly index: number }>
  async update(change: unknown, options: UpdateOptions = {}): Promise<{ readonly index: number }> {
    const { ifIndex, format, signal } = options
    const kind = this.#options.reducer ? 'opaque' : format === 'json-patch' ? 'patch' : 'merge'
    const json = toJson(change)
    for (;;) {
      try {
        const made = await this.shared.call('propose', [kind, json, ifIndex], { signal })
        await this.#until(() => this.#index >= made.index || this.#log.ended, { signal })
        return made
      } catch (error) {
        if (!this.#options.queue || !RoomsError.is(error, 'NO_QUORUM')) throw error
      }
      await this.#until(() => this.consensus.status !== 'read-only' || this.#log.ended, {
        signal,
        pauseMs: QUEUE_RETRY_MS,
      })
    }
  }

  /**
   * Shows somebody out and keeps it out. For moderators.
   * @param participant - a participant id or an endpoint id
   * @throws `REFUSED` for who is no moderator, `NO_QUORUM`, `UPDATE_UNKNOWN`
   */
  kick(participant: string, options: SignalOptions = {}): Promise<void> {
    return this.shared.call('kick', [participant], options)
  }

  /** Lets nobody new in, or opens again. For moderators; throws as {@link kick}. */
  lock(locked = true, options: SignalOptions = {}): Promise<void> {
    return this.shared.call('lock', [locked], options)
  }

  /** Sets who may kick, lock and rotate, by endpoint id. For moderators; throws as {@link kick}. */
  setModerators(ids: readonly EndpointId[], options: SignalOptions = {}): Promise<void> {
    return this.shared.call('setModerators', [[...ids]], options)
  }

  /**
   * Gives the room a new id; who only knows the old one does not find it any more. For moderators;
   * throws as {@link kick}.
   * @returns the new id
   */
  async rotate(options: SignalOptions = {}): Promise<string> {
    this.shared.id = await this.shared.call('rotate', [], options)
    return this.shared.id
  }

  /**
   * Goes on without a majority, in a new epoch, from what this participant has. What only the others
   * had is lost, unless they come back: then they get their changes back as `superseded`.
   */
  recover(options: SignalOptions & { readonly acceptLoss: true }): Promise<void> {
    return this.shared.call('recover', [], options)
  }

  /** The state as bytes, for `restore` in a new room. */
  saved(options: SignalOptions = {}): Promise<Uint8Array> {
    return this.shared.call('saved', [], options)
  }

  /** As in every room; with `state-update`. A reader that is 64 changes behind gets the state as a whole. */
  override events(options: EventsOptions = {}): Subscription<RoomEvent<DeepReadonly<S>>> {
    return new StateReader(this.#log, Promise.resolve(this.shared.events(options)), options.signal)
  }

  async #open(
    how: StateRoomHow,
    participantId: string,
    name: string | undefined,
    initialState: S | undefined,
  ): Promise<this> {
    const { signal: given } = this.#options
    const signal = given ? AbortSignal.any([given, this.#giveUp.signal]) : this.#giveUp.signal
    // Whatever is wrong is said by `ready`, after the constructor.
    await Promise.resolve()
    signal.throwIfAborted()
    const { restore, from, place } = await this.#kept(how, name)
    const options = wireOptions(how, participantId, initialState, this.#options, restore)
    if (initialState !== undefined && how !== 'join') {
      this.#state = freezeDeep(JSON.parse(toJson(initialState))) as DeepReadonly<S>
    }
    const ticket = ticketOf(name)
    const live = await this.#live(ticket, signal)
    const { link } = live
    const handle = link.newHandle()
    const ended = (reason: 'kicked'): void => this.shared.endsFor(reason)
    const events = { window: EVENTS_WINDOW, owner: handle }
    const main = link.newStream({ ...events, map: eventMapper(link, handle, ended) })
    const cursor = link.newStream({ ...events, map: eventMapper(link, handle) })
    const changes = link.newStream({ ...events, map: (change: WireChange) => change })
    const standings = link.newStream({ ...events, map: (standing: Standing) => standing })
    const streams = [main, cursor, changes, standings] as const
    link.answer(handle, async (_kind, items, asked) =>
      Promise.all(items.map((item) => this.#answer(item as Question, asked.signal))),
    )
    try {
      const opened = await link.call(
        'openStateRoom',
        [handle, how, name, options, main.port, cursor.port, changes.port, standings.port],
        { signal, transfer: streams.map(({ port }) => port) },
      )
      this.#stands(opened)
      const first = await changes.stream.next()
      if (first.done) throw new RoomsError('CLOSED', 'the room ended at once')
      this.#changed(first.value)
      signal.throwIfAborted()
      this.#cursor = cursor.stream as PortStream<never>
      this.shared.enter(live, handle, opened, main.stream)
      if (place) this.#saver = this.#save(place)
      live.opened(this)
      void this.#follow(changes.stream, (change) => this.#changed(change))
      void this.#follow(standings.stream, (standing) => this.#stands(standing))
      void this.closed.then(() => link.answer(handle, undefined))
      return this
    } catch (error) {
      link.answer(handle, undefined)
      link.post('leaveRoom', [handle])
      await Promise.all(streams.map(({ stream }) => stream.return()))
      throw (await from?.explain(error)) ?? error
    }
  }

  /** Where the state is to be kept, where it comes from, and what is there. */
  async #kept(
    how: StateRoomHow,
    name: string | undefined,
  ): Promise<{ restore?: Uint8Array; from?: Place; place?: Place }> {
    const { persist, restore } = this.#options
    if (restore && how === 'join') {
      throw invalid('restore', 'is for who creates a room: use Room.create or Room.joinOrCreate')
    }
    const place = placeOf(persist, how === 'join' ? undefined : name)
    const places = place ? { place } : {}
    if (!restore) return places
    if (restore instanceof Uint8Array) return { ...places, restore }
    const from = typeof restore === 'string' ? placeOf('local', restore) : place
    if (!from) throw invalid('restore', "true needs persist: 'local', or a path")
    const bytes = await from.read()
    return bytes ? { ...places, from, restore: bytes } : places
  }

  #save(place: Place): Saver {
    const failed = (error: unknown): void =>
      this.shared.report('INTERNAL', `the state could not be kept: ${String(error)}`)
    return new Saver(place, this.id, () => this.saved(), failed)
  }

  async #live(ticket: RoomTicket | undefined, signal: AbortSignal): Promise<Live> {
    const { live, relay = ticket?.relays.length ? ticket.relays : undefined } = this.#options
    if (live instanceof Live) return live
    const made = await Live.spawn({
      identity: runtime.identity(),
      ...(relay === undefined ? {} : { relay }),
      ...live,
      signal,
    })
    this.shared.owned = made
    return made
  }

  /** What changes the standing is known before others hear of it. */
  #watchDoorman(): void {
    const now = (news: Partial<Consensus>): void =>
      this.#stands({ ...this.#standing, consensus: { ...this.consensus, ...news } })
    this.on('doorman-changed', ({ doorman, self }) => {
      const { doorman: _, ...others } = this.consensus
      const consensus = {
        ...others,
        isDoorman: self,
        ...(doorman === undefined ? {} : { doorman }),
      }
      this.#stands({ ...this.#standing, consensus })
    })
    this.on('quorum-lost', () => now({ status: 'read-only' }))
    this.on('quorum-restored', () => now({ status: 'active' }))
  }

  #stands({ consensus, participants }: Standing): void {
    this.#standing = freezeDeep({
      consensus: { ...consensus, index: Math.max(this.#index, consensus.index) },
      participants: [...participants],
    })
    this.#wake()
  }

  #changed(item: WireChange): void {
    const first = this.#index === 0
    this.#index = item.index
    if (item.type === 'change' && item.refused !== undefined) return this.#wake()
    const state = freezeDeep(nextState(this.#state as Json, item)) as DeepReadonly<S>
    this.#state = state
    const { consensus } = this.#standing
    this.#standing = {
      ...this.#standing,
      consensus: Object.freeze({ ...consensus, index: item.index }),
    }
    this.#saver?.soon()
    this.#wake()
    if (first) return
    const { index } = item
    const update: StateUpdate =
      item.type === 'state'
        ? { type: 'state-update', change: null, state, index, skipped: true }
        : { type: 'state-update', change: item.change, state, index, author: item.author }
    this.#log.append(freezeDeep(update))
    this.shared.emitter.emit('state-update', update)
  }

  async #answer(question: Question, signal: AbortSignal): Promise<unknown> {
    try {
      switch (question.kind) {
        case 'admit':
          return await this.#admit(question, signal)
        case 'decide':
          return this.#decide(question)
        case 'consider': {
          const { consent } = this.#options
          const { author } = question
          const change = freezeDeep(question.change) as C
          return consent ? await consent(change, { author, signal }) : true
        }
      }
    } catch (error) {
      const message = `the application failed to answer (${question.kind}): ${String(error)}`
      this.shared.report('INTERNAL', message)
      return question.kind === 'decide' ? { failed: true } : false
    }
  }

  async #admit(
    { participantId, endpointId, proof }: Extract<Question, { kind: 'admit' }>,
    signal: AbortSignal,
  ): Promise<boolean | string> {
    const shown = proof ? { proof: Uint8Array.from(proof) } : {}
    return (
      (await this.#options.admit?.({ participantId, endpointId, ...shown }, { signal })) ?? true
    )
  }

  #decide(question: Extract<Question, { kind: 'decide' }>): Decision {
    const { index, author, time, seed } = question
    const { reducer, validate } = this.#options
    const context = Object.freeze({ index, author, time, seed })
    const change = freezeDeep(question.change) as C
    const state = freezeDeep(question.state) as DeepReadonly<S>
    const verdict = atOnce(validate?.(change, state, context), 'validate')
    if (verdict === false) return { refuse: 'refused' }
    if (typeof verdict === 'string') return { refuse: verdict }
    if (!reducer) return { accept: true }
    const next = atOnce(reducer(state, change, context), 'reducer')
    toJson(next)
    return { accept: true, state: next as Json }
  }

  async #follow<T>(stream: PortStream<T>, take: (item: T) => void): Promise<void> {
    try {
      for await (const item of stream) take(item)
    } catch (error) {
      if (RoomsError.is(error)) return
      this.shared.report('INTERNAL', `a change could not be followed: ${String(error)}`)
    }
  }

  /** Waits until something holds, looking whenever there is news; with `pauseMs` not at once, and that often. */
  async #until(
    holds: () => boolean,
    { signal, pauseMs }: { signal: AbortSignal | undefined; pauseMs?: number },
  ): Promise<void> {
    signal?.throwIfAborted()
    for (let first = pauseMs !== undefined; first || !holds(); first = false) {
      const { promise, resolve } = deferred<void>()
      const onNews = (): void => resolve()
      const timer = pauseMs === undefined ? undefined : setTimeout(onNews, pauseMs)
      this.#waiting.add(onNews)
      signal?.addEventListener('abort', onNews)
      await promise
      clearTimeout(timer)
      this.#waiting.delete(onNews)
      signal?.removeEventListener('abort', onNews)
      signal?.throwIfAborted()
    }
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve()
  }
}

/** What waits for something may come to another answer elsewhere. */
function atOnce(answer: unknown, who: string): unknown {
  if (typeof (answer as { then?: unknown } | undefined)?.then !== 'function') return answer
  throw new Error(`${who} gave a promise: it has to answer at once, the same at every participant`)
}

function nextState(state: Json, item: WireChange): Json {
  if (item.type === 'state') return item.state
  if (item.kind === 'opaque') return item.state ?? null
  return item.kind === 'merge' ? mergePatch(state, item.change) : jsonPatch(state, item.change)
}

/** The ticket that a text is, if it is one: the same rule as in Rust. */
function ticketOf(text: string | undefined): RoomTicket | undefined {
  if (text === undefined || !/#room=|^\s*room[a-zA-Z2-7]{40,}\s*$/.test(text)) return undefined
  const ticket = RoomTicket.parse(text)
  if (ticket.roomId !== undefined) return ticket
  throw new RoomsError(
    'INVALID_TICKET',
    'this is the ticket of a room without a doorman: enter it with Room.open(live, ticket)',
  )
}

function wireOptions<S, C>(
  how: StateRoomHow,
  participantId: string,
  initialState: S | undefined,
  options: StateRoomOptions<S, C>,
  restore: Uint8Array | undefined,
): WireOptions {
  const { displayName, presence, autoSubscribe = true, moderators, proof, app } = options
  const { approval = 'guard', recovery = 'auto', voters = 5 } = options
  const { joinTimeoutMs = JOIN_TIMEOUT_MS } = options
  const bytes = typeof participantId === 'string' ? new TextEncoder().encode(participantId) : []
  if (bytes.length < 1 || bytes.length > PARTICIPANT_BYTES) {
    throw invalid('participantId', `is a text of 1 to ${PARTICIPANT_BYTES} bytes`)
  }
  if (!['guard', 'majority'].includes(approval)) {
    throw invalid('approval', "is 'guard' or 'majority'")
  }
  if (!['auto', 'manual', 'never'].includes(recovery)) {
    throw invalid('recovery', "is 'auto', 'manual' or 'never'")
  }
  if (![1, 3, 5, 7].includes(voters)) throw invalid('voters', 'is 1, 3, 5 or 7')
  if (proof && proof.byteLength > PROOF_BYTES) {
    throw new RoomsError('TOO_LARGE', `proof has more than ${PROOF_BYTES} bytes`, {
      details: { limit: PROOF_BYTES },
    })
  }
  if (app && app.byteLength !== 32) throw invalid('app', 'has 32 bytes')
  if (!Number.isInteger(joinTimeoutMs) || joinTimeoutMs < 1) {
    throw invalid('joinTimeoutMs', 'is a number of milliseconds, 1 or more')
  }
  return {
    participantId,
    autoSubscribe,
    approval,
    recovery,
    voters,
    joinTimeoutMs,
    reducer: options.reducer !== undefined,
    validate: options.validate !== undefined,
    admit: options.admit !== undefined,
    priority: runtime.priority(),
    ...(how === 'join' ? {} : { initialState: toJson(initialState ?? {}) }),
    ...(displayName === undefined ? {} : { displayName }),
    ...(presence === undefined ? {} : { presence: toJson(presence) }),
    ...(moderators === undefined ? {} : { moderators: [...moderators] }),
    ...(proof === undefined ? {} : { proof }),
    ...(app === undefined ? {} : { app }),
    ...(restore === undefined ? {} : { restore }),
  }
}

function invalid(option: string, what: string): RoomsError {
  return new RoomsError('INVALID_ARGUMENT', `${option} ${what}`)
}
