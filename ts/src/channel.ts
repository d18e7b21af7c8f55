import { RoomsError } from './errors.js'
import type { Subscription } from './events.js'
import type { SignalOptions } from './internal/emitter.js'
import { EVENTS_WINDOW } from './internal/port-stream.js'
import type { RoomShared } from './internal/room-shared.js'
import type { EndpointId } from './wire.js'

/** Options of {@link Channel.send}. */
export interface ChannelSendOptions extends SignalOptions {
  /** Only to this peer. Default: to all. */
  readonly to?: EndpointId
  /**
   * As a datagram: at most 1,100 bytes, may be lost or come out of order. For what is stale
   * in a moment anyway, such as cursors. Default false.
   */
  readonly datagram?: boolean
}

/** A message of a {@link Channel}. */
export interface ChannelMessage<T> {
  /** Who sent it, as the session that carried it proves. */
  readonly from: EndpointId
  /** What was sent. Peers can send anything: check it before use. */
  readonly value: T
}

/**
 * Small JSON messages among the peers of a room, by name. Iterate it to get what others send; each
 * iteration is a reader of its own. Who comes later gets the last 10 seconds.
 *
 * @example
 * const cursors = room.channel<{ x: number; y: number }>('cursors')
 * await cursors.send({ x: 1, y: 2 }, { datagram: true })
 * for await (const { from, value } of cursors) draw(from, value)
 */
export class Channel<T> implements AsyncIterable<ChannelMessage<T>> {
  /** The channel's name. */
  readonly name: string
  readonly #room: RoomShared

  /** @internal */
  constructor(room: RoomShared, name: string) {
    this.#room = room
    this.name = name
  }

  /**
   * Sends a value. Resolves when it is on its way, not when it has arrived.
   * @throws `INVALID_ARGUMENT` for what is not JSON, `TOO_LARGE`, `CLOSED`
   */
  async send(value: T, options: ChannelSendOptions = {}): Promise<void> {
    const { to, datagram = false, signal } = options
    const json = toJson(value)
    await this.#room.call('channelSend', [this.name, json, to, datagram], { signal })
  }

  /** What others send, from now on. What cannot be read as JSON is left out. */
  messages(options: SignalOptions = {}): Subscription<ChannelMessage<T>> {
    return this.#room.stream('channelMessages', [this.name], {
      window: EVENTS_WINDOW,
      map: ({ from, json }: { from: EndpointId; json: string }) => {
        try {
          return { from, value: JSON.parse(json) as T }
        } catch {
          return undefined
        }
      },
      ...options,
    })
  }

  /** The same as {@link messages}. */
  [Symbol.asyncIterator](): Subscription<ChannelMessage<T>> {
    return this.messages()
  }
}

/** JSON of a value; `INVALID_ARGUMENT` where there is none. */
export function toJson(value: unknown): string {
  try {
    const json = JSON.stringify(value) as string | undefined
    if (json !== undefined) return json
  } catch (error) {
    throw new RoomsError('INVALID_ARGUMENT', `it cannot be written as JSON: ${String(error)}`)
  }
  throw new RoomsError('INVALID_ARGUMENT', `${typeof value} cannot be written as JSON`)
}
