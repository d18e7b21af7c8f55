import type { ChatMessage, Peer, Room, RoomEvent } from 'iroh-rooms'
import { showTicket } from './address.js'
import { Cast, paint, type Person } from './cast.js'
import { setTable, swingDoor } from './chairs.js'
import { followClock } from './clocks.js'
import { Cursors } from './cursors.js'
import { byId } from './dom.js'
import { Log } from './log.js'
import { People } from './people.js'
import { shareCursors } from './pointing.js'
import { showStatus } from './status.js'
import { throttle } from './throttle.js'
import { setUpWires } from './wires.js'

/** Whoever is seen this soon after one's own coming in has been here before. */
const ALREADY_HERE_MS = 1_500
const REFRESH_LINK_MS = 1_000

const LEFT = { left: 'left', timeout: 'lost the connection', kicked: 'was removed' } as const

/** Brings what happens in a room to the parts of the page that show it. */
export class Page {
  readonly #room: Room
  readonly #cast = new Cast()
  readonly #people = new People()
  readonly #log = new Log()
  readonly #cursors = new Cursors(byId('cursors'))
  readonly #self: Person
  readonly #openedAt = performance.now()

  constructor(room: Room) {
    this.#room = room
    this.#self = this.#cast.enter(room.self, true)
    // Those present get their colours first, and their words in the history the same ones.
    for (const peer of room.peers.values()) this.#cast.enter(peer)
    this.#showWhoIsHere()
    showStatus(room.status)
    setUpWires(room, this.#cast)
  }

  /** Until the room closes; throws what closed it. */
  async run(): Promise<never> {
    const room = this.#room
    this.#refreshLink()
    this.#readHistory()
    shareCursors(room, byId('floor'), this.#cursors, this.#cast).catch(console.warn)

    for await (const event of room.events()) {
      try {
        this.#show(event)
      } catch (error) {
        // One thing that cannot be shown is no reason to miss the next.
        console.error(error)
      }
    }
    const { error } = await room.closed
    throw error ?? new Error('The room was closed.')
  }

  async say(text: string): Promise<void> {
    this.#hear(await this.#room.chat.send(text))
  }

  rename(name: string): void {
    this.#self.name = name
    this.#cursors.rename(this.#self)
    this.#showWhoIsHere()
    this.#room.setDisplayName(name).catch(console.warn)
  }

  #show(event: RoomEvent): void {
    switch (event.type) {
      case 'peer-joined':
        return this.#join(event.peer)
      case 'peer-updated':
        return this.#update(event.peer)
      case 'peer-left':
        return this.#leave(event.peer, event.reason)
      case 'broadcast-subscribed': {
        const { peer, name, broadcast } = event
        return void followClock(broadcast, (text) => this.#people.say(peer.id, name, text))
      }
      case 'chat-message':
        return this.#hear(event)
      case 'status':
        this.#refreshLink()
        return showStatus(event.status)
      case 'lagged':
        // Who is here is made up for by the events that follow; what was said is in the history.
        return this.#readHistory()
      case 'error':
        return console.warn(event.message)
    }
  }

  #join(peer: Peer): void {
    const person = this.#cast.enter(peer)
    this.#people.add(person, peer)
    this.#showWhoIsHere()
    this.#refreshLink()
    const before = performance.now() - this.#openedAt < ALREADY_HERE_MS
    if (!before) swingDoor()
    this.#log.notice(`${person.name} ${before ? 'is here' : 'came in'}`, 'joined', person.id)
  }

  #update(peer: Peer): void {
    const before = this.#cast.get(peer.id)?.name
    if (before === undefined) return
    const person = this.#cast.enter(peer)
    this.#people.update(person, peer)
    if (before === person.name) return
    this.#cursors.rename(person)
    this.#showWhoIsHere()
    this.#log.notice(`${before} is now ${person.name}`, 'renamed', person.id)
  }

  #leave(peer: Peer, reason: keyof typeof LEFT): void {
    const person = this.#cast.leave(peer.id)
    if (!person) return
    this.#people.remove(peer.id)
    this.#cursors.remove(peer.id)
    this.#showWhoIsHere()
    this.#refreshLink()
    swingDoor()
    this.#log.notice(`${person.name} ${LEFT[reason]}`, 'left', person.id, reason)
  }

  #hear(message: ChatMessage): void {
    this.#log.message(this.#cast.of(message.peer), message)
  }

  #readHistory(): void {
    this.#room.chat.history().then((messages) => {
      for (const message of messages) this.#hear(message)
    }, console.warn)
  }

  /** The link names people who are here now: newcomers ask those for the way. */
  readonly #refreshLink = throttle<void>(REFRESH_LINK_MS, () => {
    this.#room.ticket().then(showTicket, console.warn)
  })

  #showWhoIsHere(): void {
    setTable(this.#cast)
    for (const person of this.#cast) paint(person)
    this.#people.showSelf(this.#self)
    this.#log.emptyText =
      this.#cast.size > 1
        ? 'Nothing has been said yet.'
        : 'Nobody else is here yet. Copy the link and send it to someone: whoever opens it comes in.'
  }
}
