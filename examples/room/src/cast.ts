import type { Peer } from 'iroh-rooms'
import { hash } from './hash.js'
import { cleanName, guestName } from './names.js'

/** A peer as the page shows it. */
export interface Person {
  readonly id: string
  readonly self: boolean
  name: string
  /** Angle on the colour wheel; style/tokens.css makes the colour from it, for light and for dark. */
  hue: number
}

/** Far enough apart to be told from each other at a glance. */
const HUES = [25, 55, 90, 130, 165, 200, 235, 265, 295, 325, 350]

/** Who is in the room, under which name and colour. */
export class Cast {
  readonly #people = new Map<string, Person>()

  enter(peer: Peer, self = false): Person {
    const person = this.#people.get(peer.id) ?? { id: peer.id, self, name: '', hue: 0 }
    person.name = nameOf(peer)
    if (!this.#people.has(peer.id)) {
      this.#people.set(peer.id, person)
      this.#colour()
    }
    return person
  }

  leave(id: string): Person | undefined {
    const person = this.#people.get(id)
    this.#people.delete(id)
    this.#colour()
    return person
  }

  get(id: string): Person | undefined {
    return this.#people.get(id)
  }

  /** The person a peer is here, or was: messages outlast their authors. */
  of(peer: Peer): Person {
    const known = this.#people.get(peer.id)
    return known ?? { id: peer.id, self: false, name: nameOf(peer), hue: hueOf(peer.id, new Set()) }
  }

  get size(): number {
    return this.#people.size
  }

  [Symbol.iterator](): Iterator<Person> {
    return this.#people.values()
  }

  /**
   * Colours come from the ids of those present and nothing else, so they are the same on every
   * screen. Where two would have the same, the one with the higher id takes another.
   */
  #colour(): void {
    const taken = new Set<number>()
    const people = [...this.#people.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
    for (const person of people) {
      if (taken.size === HUES.length) taken.clear()
      person.hue = hueOf(person.id, taken)
      taken.add(person.hue)
    }
  }
}

function hueOf(id: string, taken: ReadonlySet<number>): number {
  const start = hash(id)
  // Steps of 4 in a wheel of 11 reach every hue, and land far from the one that was taken.
  const order = HUES.map((_, step) => HUES[(start + step * 4) % HUES.length] ?? 0)
  return order.find((hue) => !taken.has(hue)) ?? 0
}

function nameOf(peer: Peer): string {
  return cleanName(peer.displayName ?? peer.participantId ?? '') || guestName(peer.id)
}

/** Puts everything that shows this person, marked by `data-peer`, into their colour. */
export function paint(person: Person): void {
  for (const element of document.querySelectorAll<HTMLElement>('[data-peer]')) {
    if (element.dataset['peer'] === person.id) wear(element, person)
  }
}

/** Dresses an element in a person's colour. */
export function wear(element: HTMLElement, person: Pick<Person, 'hue'>): void {
  element.style.setProperty('--hue', String(person.hue))
}

/** The letter on a person's chair. */
export function initial(name: string): string {
  return (Array.from(name)[0] ?? '·').toLocaleUpperCase()
}
