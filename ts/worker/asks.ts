/**
 * Questions of the core to the application: asked in batches, each answered within its kind's limit
 * or not at all.
 */
import { RoomsError } from '../src/errors.js'
import type { AnswerMessage, AskKind, AskMessage, Handle } from './protocol.js'

/** How long the application may take. A person may have to decide about `admit`. */
export const ASK_LIMITS_MS: Record<AskKind, number> = {
  admit: 30_000,
  decide: 5_000,
  consider: 15_000,
}

export class Asks {
  readonly #post: (message: AskMessage) => void
  readonly #limits: Record<AskKind, number>
  readonly #waiting = new Map<number, (message: AnswerMessage['result']) => void>()
  #id = 0

  constructor(
    post: (message: AskMessage) => void,
    limits: Record<AskKind, number> = ASK_LIMITS_MS,
  ) {
    this.#post = post
    this.#limits = limits
  }

  /**
   * One answer for each item, in order. Without an answer in time an `admit` is denied; the other
   * kinds reject with `TIMEOUT`.
   * @param room - whose application is asked
   */
  async ask(room: Handle, kind: AskKind, items: unknown[]): Promise<unknown[]> {
    this.#id += 1
    const id = this.#id
    const limitMs = this.#limits[kind]
    let timer: ReturnType<typeof setTimeout> | undefined
    const result = await new Promise<AnswerMessage['result'] | undefined>((resolve) => {
      this.#waiting.set(id, resolve)
      timer = setTimeout(() => resolve(undefined), limitMs)
      this.#post({ t: 'ask', id, room, kind, items, limitMs })
    })
    clearTimeout(timer)
    this.#waiting.delete(id)
    const values: unknown = result?.ok ? result.value : undefined
    if (Array.isArray(values) && values.length === items.length) return values
    if (kind === 'admit') return items.map(() => false)
    if (!result) throw new RoomsError('TIMEOUT', `${kind} did not answer within ${limitMs} ms`)
    if (!result.ok) throw RoomsError.from(result.error)
    throw new RoomsError('PROTOCOL', `${kind} did not answer each of ${items.length} questions`)
  }

  /** Takes an answer; one that comes too late is dropped. */
  answer(message: AnswerMessage): void {
    this.#waiting.get(message.id)?.(message.result)
  }
}
