import { RoomsError } from './errors.js'
import { isPublicKey } from './internal/ed25519.js'
import {
  PostcardReader,
  PostcardWriter,
  fromBase32,
  key32FromHex,
  toBase32,
  toHex,
} from './internal/bytes.js'
import type { EndpointId } from './wire.js'

const KIND = 'room'
const MAX_BOOTSTRAP = 8
const MAX_RELAYS = 4
const MAX_BYTES = 1024
const EXTENSION_VERSION = 1

/** The parts of a ticket, checked. */
interface Parts {
  readonly topic: Uint8Array
  readonly bootstrap: readonly Uint8Array[]
  readonly relays: readonly string[]
  /** For each bootstrap peer with a known relay: its index and that relay's index. */
  readonly addrs: readonly (readonly [number, number])[]
  readonly roomId: Uint8Array | undefined
}

/**
 * A key to a room: its topic, and whom to ask first. Whoever holds it can enter. Immutable, made
 * and read without a `Live`, the same on every platform.
 *
 * @example
 * const ticket = RoomTicket.generate()
 * location.hash = ticket.toURL(location.href).hash
 */
export class RoomTicket {
  /** The gossip topic, 64 hex digits; for a room with a doorman the room id instead. */
  readonly topicId: string
  /** Peers to contact first, at most 8. */
  readonly bootstrap: readonly EndpointId[]
  /** Relays through which they are reached, at most 4. */
  readonly relays: readonly string[]
  /** Set on the ticket of a room with a doorman: 64 hex digits. */
  readonly roomId: string | undefined
  readonly #text: string

  /**
   * @param topicId - 64 hex digits
   * @param bootstrap - endpoint ids of peers to contact first; those beyond 8 are left out
   * @throws `INVALID_ARGUMENT` when an id is malformed
   */
  constructor(topicId: string, bootstrap?: Iterable<EndpointId>)
  /** @internal */
  constructor(topicId: string, bootstrap: Iterable<EndpointId>, parts: Parts)
  constructor(topicId: string, bootstrap: Iterable<EndpointId> = [], parts?: Parts) {
    const checked = parts ?? plain(topicId, bootstrap)
    this.topicId = toHex(checked.topic)
    this.bootstrap = Object.freeze(checked.bootstrap.map(toHex))
    this.relays = Object.freeze([...checked.relays])
    this.roomId = checked.roomId && toHex(checked.roomId)
    this.#text = KIND + toBase32(encode(checked))
    Object.freeze(this)
  }

  /** A ticket of a new room: a random topic and nobody to ask. */
  static generate(): RoomTicket {
    return new RoomTicket(toHex(crypto.getRandomValues(new Uint8Array(32))))
  }

  /** The same as the constructor, by the name the spec gives it. */
  static new(topicId: string, bootstrap: Iterable<EndpointId> = []): RoomTicket {
    return new RoomTicket(topicId, bootstrap)
  }

  /**
   * Reads a ticket's text, alone or behind `#room=` of any URL.
   * @throws `INVALID_TICKET` saying what is wrong
   */
  static parse(text: string | URL): RoomTicket {
    try {
      const parts = decode(ticketText(String(text)))
      return new RoomTicket('', [], parts)
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      throw new RoomsError('INVALID_TICKET', `not a room ticket: ${why}`)
    }
  }

  /**
   * Reads `IROH_LIVE_ROOM` (a ticket), or else `IROH_LIVE_TOPIC` (64 hex digits).
   * @param env - default `process.env`
   * @throws `INVALID_TICKET` naming the variable that is missing or malformed
   */
  static fromEnv(env: Readonly<Record<string, string | undefined>> = environment()): RoomTicket {
    const { IROH_LIVE_ROOM: room, IROH_LIVE_TOPIC: topic } = env
    if (room !== undefined) {
      try {
        return RoomTicket.parse(room)
      } catch (error) {
        throw new RoomsError('INVALID_TICKET', `IROH_LIVE_ROOM: ${(error as Error).message}`)
      }
    }
    if (topic === undefined) {
      throw new RoomsError(
        'INVALID_TICKET',
        'neither IROH_LIVE_ROOM (a ticket) nor IROH_LIVE_TOPIC (64 hex digits) is set',
      )
    }
    if (!key32FromHex(topic.trim())) {
      throw new RoomsError('INVALID_TICKET', 'IROH_LIVE_TOPIC is not 64 hex digits')
    }
    return new RoomTicket(topic.trim())
  }

  /** The ticket's text: `room` and base32. */
  toString(): string {
    return this.#text
  }

  /** A link into the room: any page with `#room=<ticket>`. Servers do not see the part behind #. */
  toURL(base: string | URL): URL {
    const url = new URL(base)
    url.hash = `room=${this.#text}`
    return url
  }

  /** The text, so that a ticket can be part of JSON. */
  toJSON(): string {
    return this.#text
  }
}

function plain(topicId: string, bootstrap: Iterable<EndpointId>): Parts {
  const topic = key32FromHex(topicId)
  if (!topic) throw new RoomsError('INVALID_ARGUMENT', 'a topic id has 64 hex digits')
  const peers = [...bootstrap].slice(0, MAX_BOOTSTRAP).map((id) => {
    const key = key32FromHex(id)
    if (!key || !isPublicKey(key)) {
      throw new RoomsError('INVALID_ARGUMENT', `'${id}' is not an endpoint id`)
    }
    return key
  })
  return { topic, bootstrap: peers, relays: [], addrs: [], roomId: undefined }
}

function ticketText(text: string): string {
  const trimmed = text.trim()
  const at = trimmed.indexOf('#room=')
  const ticket = at < 0 ? trimmed : (trimmed.slice(at + 6).split('&')[0] ?? '')
  if (ticket.length > (MAX_BYTES * 8) / 5 + KIND.length + 1) throw new Error('longer than 1 KiB')
  return ticket
}

function encode({ topic, bootstrap, relays, addrs, roomId }: Parts): Uint8Array {
  const out = new PostcardWriter()
  out.length(bootstrap.length)
  for (const peer of bootstrap) out.raw(peer)
  out.raw(topic)
  // iroh-live's decoder stops here and ignores what follows.
  if (relays.length === 0 && !roomId) return out.done()
  out.byte(EXTENSION_VERSION)
  out.length(relays.length)
  for (const relay of relays) out.text(relay)
  out.length(addrs.length)
  for (const [peer, relay] of addrs) {
    out.byte(peer)
    out.byte(relay)
  }
  out.byte(roomId ? 1 : 0)
  if (roomId) out.raw(roomId)
  return out.done()
}

function decode(text: string): Parts {
  if (!text.startsWith(KIND)) throw new Error(`wrong prefix, expected ${KIND}`)
  const bytes = fromBase32(text.slice(KIND.length))
  if (bytes.length > MAX_BYTES) throw new Error('longer than 1 KiB')
  const input = new PostcardReader(bytes)
  const bootstrap = input.list(() => {
    const key = input.raw(32)
    if (!isPublicKey(key)) throw new Error('a bootstrap peer is not a public key')
    return key
  })
  if (bootstrap.length > MAX_BOOTSTRAP) throw new Error('more than 8 bootstrap peers')
  const topic = input.raw(32)
  if (input.left === 0) return { topic, bootstrap, relays: [], addrs: [], roomId: undefined }

  if (input.byte() !== EXTENSION_VERSION) {
    throw new Error('made by a newer version: update iroh-rooms')
  }
  const relays = input.list(() => relayUrl(input.text()))
  const addrs = input.list(() => [input.byte(), input.byte()] as const)
  const roomId = input.option(() => input.raw(32))
  if (input.left > 0) throw new Error('bytes after the end')
  if (relays.length > MAX_RELAYS) throw new Error('more than 4 relays')
  const known = addrs.every(([peer, relay]) => peer < bootstrap.length && relay < relays.length)
  if (addrs.length > MAX_BOOTSTRAP || !known) {
    throw new Error('an address points beyond its lists')
  }
  return { topic, bootstrap, relays, addrs, roomId }
}

function relayUrl(text: string): string {
  try {
    return new URL(text).href
  } catch {
    throw new Error('a relay is not a URL')
  }
}

function environment(): Readonly<Record<string, string | undefined>> {
  return typeof process === 'object' ? process.env : {}
}
