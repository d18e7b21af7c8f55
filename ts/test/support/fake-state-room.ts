/**
 * A room with a doorman for the fake core: one participant, who agrees with itself. What its door and
 * the others do is said by the room's name, and by its chat (`/quorum lost`).
 */
import type {
  CancelHandle,
  RoomHandle,
  StateRoomHandle,
  StateRoomHow,
  StateRoomOptions,
  StreamHandle,
} from '../../worker/core-module.js'
import type { TestCancel } from '../../testing/session.js'
import { fail } from '../../testing/stream.js'
import { jsonPatch, mergePatch } from '../../src/internal/patch.js'
import type { Consensus, Json, Participant, WireChange, WireEvent } from '../../src/wire.js'
import type { Decision, Question } from '../../worker/protocol.js'

/** As in the real core: beyond it one whole state comes in place of the changes. */
const CHANGES_CAP = 256

type Stream = StreamHandle & { push(item: unknown): void; end(): void }

/** What the fake core lends it. */
export interface FakeHouse {
  readonly self: string
  stream(): Stream
  room(options: StateRoomOptions): RoomHandle & {
    emit(event: WireEvent): void
    onCommand: ((words: string[]) => Promise<boolean>) | undefined
  }
  readonly log: string[]
}

/** A question without the number that it gets. */
type Asked = Question extends infer Q ? (Q extends Question ? Omit<Q, 'id'> : never) : never

/** Items cross as JSON. */
function asJson(stream: Stream): Stream {
  return {
    push: (item) => stream.push(item),
    end: () => stream.end(),
    cancel: () => stream.cancel(),
    free: () => stream.free(),
    nextBatch: async (maxItems, maxBytes) => {
      const batch = await stream.nextBatch(maxItems, maxBytes)
      return { ...batch, items: JSON.stringify(batch.items) }
    },
  }
}

export class FakeStateRoom implements StateRoomHandle {
  readonly #house: FakeHouse
  readonly #how: StateRoomHow
  readonly #name: string
  readonly #options: StateRoomOptions
  readonly #questions: Stream
  readonly #changes = new Set<{ stream: Stream; waiting: number }>()
  readonly #asked = new Map<number, (json: string) => void>()
  readonly #room: ReturnType<FakeHouse['room']>
  #question = 0
  #state: Json
  #index = 1
  #id: string
  #status: Consensus['status'] = 'active'
  #doorman = true
  #moderates = true
  #left = false

  constructor(
    house: FakeHouse,
    how: StateRoomHow,
    name: string | undefined,
    options: StateRoomOptions,
  ) {
    this.#house = house
    this.#how = how
    this.#name = name ?? ''
    this.#options = options
    this.#id = name ?? 'y'.repeat(52)
    this.#questions = asJson(house.stream())
    this.#state = JSON.parse(options.initialState ?? '{"joined":true}') as Json
    this.#room = house.room(options)
    this.#room.onCommand = (words) => this.#command(words)
  }

  async ready(cancel: CancelHandle): Promise<void> {
    const [word] = this.#name.split('-')
    if (word === 'slow') await new Promise((resolve) => setTimeout(resolve, 50))
    if (word === 'never') await (cancel as TestCancel).until(new Promise(() => undefined))
    if (word === 'taken') fail('PARTICIPANT_ID_TAKEN', 'somebody else has that name here')
    if (word === 'refused') fail('REFUSED', 'the doorman says no', { reason: 'not tonight' })
    if (word === 'exists' && this.#how === 'create') fail('ROOM_EXISTS', 'somebody answers')
    if (word === 'missing' && this.#how === 'join') fail('ROOM_NOT_FOUND', 'nobody answers')
    if (word === 'trap') throw new WebAssembly.RuntimeError('unreachable')
    if (this.#options.restore && this.#how !== 'join') {
      const text = new TextDecoder().decode(this.#options.restore)
      if (!text.startsWith('saved ')) fail('INVALID_ARGUMENT', 'restore: it is damaged')
      this.#state = JSON.parse(text.slice(6)) as Json
    }
  }

  id(): string {
    return this.#id
  }

  room(): RoomHandle {
    return this.#room
  }

  changes(): StreamHandle {
    const stream = asJson(this.#house.stream())
    const reader = { stream, waiting: 0 }
    stream.push({ type: 'state', state: this.#state, index: this.#index } satisfies WireChange)
    this.#changes.add(reader)
    return {
      nextBatch: async (maxItems, maxBytes) => {
        const batch = await stream.nextBatch(maxItems, maxBytes)
        reader.waiting -= batch.count
        return batch
      },
      cancel: () => stream.cancel(),
      free: () => stream.free(),
    }
  }

  questions(): StreamHandle {
    return this.#questions
  }

  answer(id: number, json: string): void {
    this.#asked.get(id)?.(json)
    this.#asked.delete(id)
  }

  consensus(): Consensus {
    const { self } = this.#house
    return {
      status: this.#status,
      ...(this.#doorman ? { doorman: self } : {}),
      isDoorman: this.#doorman,
      epoch: '00',
      epochNumber: 0,
      term: 1,
      index: this.#index,
      voters: [self],
      learners: [],
    }
  }

  participants(): Participant[] {
    const { participantId } = this.#options
    const moderator = this.#moderates
    return [{ participantId, id: this.#house.self, voter: true, moderator }]
  }

  async propose(
    kind: 'merge' | 'patch' | 'opaque',
    json: string,
    ifIndex?: number,
  ): Promise<{ index: number }> {
    if (this.#status === 'read-only') fail('NO_QUORUM', 'the room is read-only')
    if (ifIndex !== undefined && ifIndex < this.#index) {
      fail('UPDATE_REJECTED', 'the state has changed', { reason: 'stale' })
    }
    if (json.includes('"unknown"')) fail('UPDATE_UNKNOWN', 'the answer was lost')
    const change = JSON.parse(json) as Json
    const index = this.#index + 1
    const { self } = this.#house
    const { reducer, validate, approval } = this.#options
    if (approval === 'majority') {
      const agreed = await this.#ask({ kind: 'consider', change, changeKind: kind, author: self })
      if (agreed !== true) fail('UPDATE_REJECTED', 'not agreed', { reason: 'not agreed to' })
    }
    let state: Json | undefined
    if (reducer || validate) {
      const seed = '07'.repeat(8)
      const question = { change, changeKind: kind, author: self, index, time: 1, seed }
      const said = (await this.#ask({
        kind: 'decide',
        ...question,
        state: this.#state,
      })) as Decision
      if ('failed' in said) {
        this.#status = 'degraded'
        fail('UPDATE_UNKNOWN', 'this replica votes no more')
      }
      if ('refuse' in said) {
        this.#index = index
        fail('UPDATE_REJECTED', `refused: ${said.refuse}`, { reason: said.refuse })
      }
      if ('accept' in said) state = said.state
    }
    const next = (): Json => {
      if (kind === 'opaque') return state ?? null
      return kind === 'merge' ? mergePatch(this.#state, change) : jsonPatch(this.#state, change)
    }
    try {
      this.#state = next()
    } catch (error) {
      fail('UPDATE_REJECTED', String(error), { reason: String(error) })
    }
    this.#index = index
    const made = { type: 'change', kind, change, index, author: self } as const
    this.#tell(state === undefined ? made : { ...made, state })
    return { index }
  }

  async kick(participant: string): Promise<void> {
    if (!this.#moderates) fail('REFUSED', 'no moderator', { reason: 'not a moderator' })
    this.#house.log.push(`kick ${participant}`)
  }

  async lock(locked: boolean): Promise<void> {
    this.#house.log.push(`lock ${locked}`)
  }

  async setModerators(ids: string[]): Promise<void> {
    this.#moderates = ids.includes(this.#house.self)
  }

  async rotate(): Promise<string> {
    this.#id = 'o'.repeat(52)
    this.#room.emit({ type: 'rotated', id: this.#id })
    return this.#id
  }

  async recover(): Promise<void> {
    this.#status = 'active'
    this.#room.emit({ type: 'recovered', epoch: '01', lossless: false, dropped: 0 })
  }

  handOver(): void {
    this.#house.log.push('hand-over')
    this.#doorman = false
    this.#room.emit({ type: 'doorman-changed', doorman: 'cc'.repeat(32), self: false })
  }

  saved(): Uint8Array {
    return new TextEncoder().encode(`saved ${JSON.stringify(this.#state)}`)
  }

  async leave(): Promise<void> {
    if (this.#left) return
    this.#left = true
    this.#questions.end()
    for (const { stream } of this.#changes) stream.end()
    await this.#room.leave()
  }

  free(): void {}

  #tell(change: WireChange): void {
    for (const reader of this.#changes) {
      reader.waiting += 1
      if (reader.waiting <= CHANGES_CAP) {
        reader.stream.push(change)
        continue
      }
      // The fake stream drops its oldest: so many whole states are as good as one.
      const state = this.#state
      reader.stream.push({ type: 'state', state, index: this.#index, skipped: true })
    }
  }

  #ask(question: Asked): Promise<unknown> {
    this.#question += 1
    const id = this.#question
    return new Promise((resolve) => {
      this.#asked.set(id, (json) => resolve(JSON.parse(json)))
      this.#questions.push({ id, ...question })
    })
  }

  /** What the tests say in the chat. */
  async #command([command = '', ...args]: string[]): Promise<boolean> {
    switch (command) {
      case 'quorum':
        if (args[0] === 'lost') {
          this.#status = 'read-only'
          this.#room.emit({ type: 'quorum-lost', missing: ['ee'.repeat(32)], eligible: false })
        } else {
          this.#status = 'active'
          this.#room.emit({ type: 'quorum-restored' })
        }
        return true
      case 'promoted':
        // Nothing is said about it: the standing tells.
        this.#status = 'degraded'
        return true
      case 'knock': {
        const [participantId = ''] = args
        const answer = await this.#ask({
          kind: 'admit',
          participantId,
          endpointId: 'cc'.repeat(32),
          proof: [1, 2],
        })
        this.#room.emit({ type: 'error', code: 'ADMITTED', message: JSON.stringify(answer) })
        return true
      }
      case 'flood':
        for (let i = 0; i < Number(args[0]); i += 1) {
          this.#index += 1
          this.#state = mergePatch(this.#state, { n: i })
          const { self } = this.#house
          this.#tell({
            type: 'change',
            kind: 'merge',
            change: { n: i },
            index: this.#index,
            author: self,
          })
        }
        return true
      case 'replaced':
        this.#index += 5
        this.#state = { other: 'lineage' }
        this.#room.emit({ type: 'superseded', orphaned: [] })
        this.#tell({ type: 'state', state: this.#state, index: this.#index, skipped: true })
        return true
      case 'kicked':
        this.#room.emit({ type: 'ended', reason: 'kicked' })
        await this.leave()
        return true
      default:
        return false
    }
  }
}
