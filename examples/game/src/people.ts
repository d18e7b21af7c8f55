import type { Participant, Peer } from 'iroh-rooms'
import { byId, part, stamp } from '../../room/src/dom.js'
import { cleanName } from '../../room/src/names.js'
import { SIDE_NAMES } from './board.js'
import { type Position, type Side, seatOf, toMove } from './rules.js'

/** What is needed of the room to show its people. */
export interface House {
  readonly self: Peer
  readonly participants: readonly Participant[]
  readonly consensus: { readonly doorman?: string }
  readonly peers: ReadonlyMap<string, Peer>
}

/** The name of a participant, and "You" for oneself. */
export function nameOf({ self, participants }: House, id: string | null): string {
  if (id === self.id) return 'You'
  const found = participants.find((one) => one.id === id)
  return found ? cleanName(found.participantId) || 'Somebody' : 'Somebody who left'
}

/** Who plays, who watches, and who stands at the door. */
export function showPeople(house: House, game: Position): void {
  const mine = seatOf(game, house.self.id)
  for (const side of ['red', 'pine'] as const) {
    const chair = byId(`chair-${side}`)
    const sitter = game.seats[side]
    chair.dataset['turn'] = String(toMove(game) === side)
    part(chair, '.chair-name').textContent =
      sitter === null ? `${SIDE_NAMES[side]} is free` : nameOf(house, sitter)
    part(chair, '.chair-note').textContent = note(house, game, side)
    const button = part(chair, 'button', HTMLButtonElement)
    button.hidden = sitter === null ? mine !== undefined : sitter !== house.self.id
    button.textContent = sitter === null ? `Play ${SIDE_NAMES[side].toLowerCase()}` : 'Get up'
  }

  const people = house.participants.map((one) => {
    const item = stamp('person')
    const self = one.id === house.self.id
    part(item, '.person-name').textContent = self
      ? `${one.participantId} (you)`
      : nameOf(house, one.id)
    const doorman = one.id === house.consensus.doorman
    item.classList.toggle('is-doorman', doorman)
    part(item, '.person-door').hidden = !doorman
    item.classList.toggle('is-away', !self && !house.peers.has(one.id))
    return item
  })
  byId('people').replaceChildren(...people)
  byId('people-count').textContent = String(people.length)
}

function note(house: House, game: Position, side: Side): string {
  const sitter = game.seats[side]
  if (sitter === null) return ''
  if (sitter !== house.self.id && !house.peers.has(sitter)) return 'is away'
  return toMove(game) === side ? (sitter === house.self.id ? 'It is your turn' : 'is thinking') : ''
}
