/**
 * What a room with a doorman needs beyond what every room does: its questions, carried to the
 * application and back, and how its agreement stands.
 */
import type { Asks } from './asks.js'
import type { Batch, StateRoomHandle, StreamHandle } from './core-module.js'
import type { Decision, Handle, Question, Standing } from './protocol.js'
import type { PumpHost } from './pump.js'

/** How often the core is looked at for what has changed, in ms. */
const STANDING_MS = 250
/** Questions and bytes taken from the core at once. */
const QUESTIONS = 64
const QUESTION_BYTES = 1 << 20

/** What is answered for an application that gives no answer: nobody in, no guess, no consent. */
const UNANSWERED: Record<Question['kind'], boolean | Decision> = {
  admit: false,
  decide: { failed: true },
  consider: false,
}

/** Has the application answer the room's questions, until the returned function is called. */
export function answerQuestions(
  host: PumpHost,
  asks: Asks,
  handle: Handle,
  room: StateRoomHandle,
): () => void {
  const stream = host.hold(room.questions())
  let over = false
  const answer = async (question: Question): Promise<void> => {
    const { id, kind } = question
    const [said] = await asks.ask(handle, kind, [question]).catch(() => [UNANSWERED[kind]])
    if (over) return
    try {
      room.answer(id, JSON.stringify(said ?? UNANSWERED[kind]))
    } catch (thrown) {
      host.toData(thrown)
    }
  }
  const follow = async (): Promise<void> => {
    try {
      for (;;) {
        const { items, done } = await stream.nextBatch(QUESTIONS, QUESTION_BYTES)
        const questions = typeof items === 'string' ? (JSON.parse(items) as unknown[]) : items
        for (const question of questions) void answer(question as Question)
        if (done) return
      }
    } catch (thrown) {
      host.toData(thrown)
    } finally {
      over = true
      host.release(stream)
    }
  }
  void follow()
  return () => {
    if (over) return
    over = true
    stream.cancel()
  }
}

/** A room's {@link Standing}, each time that it is another one. */
export class StandingStream implements StreamHandle {
  readonly #room: StateRoomHandle
  #told = ''
  #over = false
  #wake: (() => void) | undefined

  constructor(room: StateRoomHandle) {
    this.#room = room
  }

  async nextBatch(): Promise<Batch> {
    for (;;) {
      if (this.#over) return { items: [], count: 0, done: true }
      const items = JSON.stringify([standingOf(this.#room)])
      if (items !== this.#told) {
        this.#told = items
        return { items, count: 1, done: false }
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, STANDING_MS)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
  }

  /** From here on the room is asked nothing. */
  cancel(): void {
    this.#over = true
    this.#wake?.()
  }

  free(): void {
    this.cancel()
  }
}

export function standingOf(room: StateRoomHandle): Standing {
  return { consensus: room.consensus(), participants: room.participants() }
}
