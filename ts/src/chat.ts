import { RoomsError } from './errors.js'
import type { Subscription } from './events.js'
import type { SignalOptions } from './internal/emitter.js'
import type { RoomShared } from './internal/room-shared.js'
import type { ChatMessage } from './wire.js'

/** The most that is kept for `messages()` readers that lag. */
const LOG_MESSAGES = 1_024

/** Options of {@link Chat.messages}. */
export interface MessagesOptions extends SignalOptions {
  /** Whether to begin with what was said since the room was opened here. Default true. */
  readonly history?: boolean
}

/** The room's chat: every message once, one's own included. */
export class Chat {
  readonly #room: RoomShared

  /** @internal */
  constructor(room: RoomShared) {
    this.#room = room
  }

  /**
   * Says something: 1 to 4,096 bytes of UTF-8.
   * @returns the message as others get it
   * @throws `TOO_LARGE`, `INVALID_ARGUMENT` (empty), `CLOSED`
   */
  async send(text: string, options: SignalOptions = {}): Promise<ChatMessage> {
    const message = await this.#room.call('sendChat', [text], options)
    this.#room.log.append(message)
    return message
  }

  /** What was said, own messages included: the last 5 minutes, at most 1,000 messages, by time. */
  history(): Promise<ChatMessage[]> {
    return this.#room.call('chatHistory', [])
  }

  /**
   * Messages as they come, one's own included; by default those first that came before. Ends with
   * the room. A reader more than 1,024 messages behind gets `LAGGED`.
   */
  messages(options: MessagesOptions = {}): Subscription<ChatMessage> {
    return this.#room.log.read(options)
  }
}

/**
 * The messages since the room was opened, and readers that each have a place in it. Not a queue:
 * nothing is stored for a reader.
 */
export class ChatLog {
  #messages: ChatMessage[] = []
  /** Number of messages that are no longer kept. */
  #dropped = 0
  #end: { readonly error: RoomsError | undefined } | undefined
  readonly #waiting = new Set<() => void>()

  append(message: ChatMessage): void {
    if (this.#end) return
    this.#messages.push(Object.freeze(message))
    if (this.#messages.length > LOG_MESSAGES * 2) {
      this.#dropped += LOG_MESSAGES
      this.#messages = this.#messages.slice(LOG_MESSAGES)
    }
    this.#wake()
  }

  /** No more messages; readers get what is left, and then the error if there is one. */
  end(error: RoomsError | undefined): void {
    this.#end ??= { error }
    this.#wake()
  }

  read({ history = true, signal }: MessagesOptions): Subscription<ChatMessage> {
    return new LogReader(this, history ? this.#dropped : this.length, signal)
  }

  get length(): number {
    return this.#dropped + this.#messages.length
  }

  get ended(): { readonly error: RoomsError | undefined } | undefined {
    return this.#end
  }

  /** The message at a place; throws `LAGGED` when it is no longer kept. */
  at(place: number): ChatMessage | undefined {
    const missed = this.#dropped - place
    if (missed > 0) {
      throw new RoomsError('LAGGED', `${missed} chat messages were dropped: read chat.history()`, {
        details: { missed },
      })
    }
    return this.#messages[place - this.#dropped]
  }

  /** Resolves at the next change. */
  changed(onWake: (off: () => void) => void): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.add(resolve)
      onWake(() => {
        this.#waiting.delete(resolve)
        resolve()
      })
    })
  }

  #wake(): void {
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const resolve of waiting) resolve()
  }
}

class LogReader implements Subscription<ChatMessage> {
  readonly #log: ChatLog
  readonly #signal: AbortSignal | undefined
  #place: number
  #over = false
  /** Reads one after the other, so that concurrent `next()` calls keep their order. */
  #turn: Promise<unknown> = Promise.resolve()
  #wake: (() => void) | undefined

  constructor(log: ChatLog, place: number, signal: AbortSignal | undefined) {
    this.#log = log
    this.#place = place
    this.#signal = signal
  }

  next(): Promise<IteratorResult<ChatMessage, undefined>> {
    const turn = this.#turn.then(() => this.#read())
    this.#turn = turn.catch(() => undefined)
    return turn
  }

  tryNext(): ChatMessage | undefined {
    if (this.#over || this.#signal?.aborted) return undefined
    const message = this.#log.at(this.#place)
    if (message) this.#place += 1
    return message
  }

  return(): Promise<IteratorReturnResult<undefined>> {
    this.#over = true
    this.#wake?.()
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  async #read(): Promise<IteratorResult<ChatMessage, undefined>> {
    const onAbort = (): void => this.#wake?.()
    this.#signal?.addEventListener('abort', onAbort)
    try {
      for (;;) {
        if (this.#over) return { done: true, value: undefined }
        if (this.#signal?.aborted) {
          this.#over = true
          throw this.#signal.reason
        }
        const message = this.tryNext()
        if (message) return { done: false, value: message }
        if (this.#log.ended) {
          this.#over = true
          if (this.#log.ended.error) throw this.#log.ended.error
          continue
        }
        await this.#log.changed((wake) => {
          this.#wake = wake
        })
      }
    } catch (error) {
      this.#over = true
      throw error
    } finally {
      this.#signal?.removeEventListener('abort', onAbort)
    }
  }
}
