import { type Consensus, RoomsError } from 'iroh-rooms'

/** How the agreement stands, for the line under the title. */
export function standing({ status, isDoorman, voters }: Consensus, people: number): string {
  switch (status) {
    case 'active':
      if (people < 2) return 'You are alone: send the link to someone'
      // Who came in votes after some seconds; until then the room goes with who founded it.
      if (voters.length < 2) return 'Stay a moment: only one of you keeps the board yet'
      return `All agree${isDoorman ? ' · you are at the door' : ''}`
    case 'degraded':
      return 'All agree · somebody is missing'
    case 'read-only':
      return 'Too few are here to agree on a move'
    case 'recovering':
      return 'Going on without those who left…'
    case 'forked':
      return 'The room came apart and is finding together again…'
  }
}

/** What stopped somebody, and the ways out: try again, knock under another name, or a new game. */
export interface Explanation {
  readonly title: string
  readonly text: string
  readonly detail: string
  readonly way: 'again' | 'name' | 'new'
}

const KNOWN: Partial<Record<string, Omit<Explanation, 'detail'>>> = {
  ROOM_NOT_FOUND: {
    title: 'Nobody is in this game any more',
    text: 'A room is there as long as somebody is in it. You can start a new one; if you have played here before, it goes on from where it was.',
    way: 'new',
  },
  PARTICIPANT_ID_TAKEN: {
    title: 'Somebody here has that name',
    text: 'Choose another one and knock again.',
    way: 'name',
  },
  REFUSED: {
    title: 'The door stays closed',
    text: 'Whoever stands there did not let you in this time.',
    way: 'name',
  },
  INVALID_ARGUMENT: {
    title: 'This link does not lead to a game',
    text: 'A part of it may be missing. Ask for the link again and copy all of it.',
    way: 'new',
  },
  RELAY_UNREACHABLE: {
    title: 'The relay does not answer',
    text: 'Browsers meet through a relay. Check your network; if you run the relay yourself, check that it is started.',
    way: 'again',
  },
}

export function explain(error: unknown): Explanation {
  const detail = error instanceof Error ? error.message : String(error)
  const code = RoomsError.is(error) ? error.code : ''
  const known = KNOWN[code]
  return known
    ? { ...known, detail }
    : {
        title: 'Something went wrong',
        text: 'Try again, or start a new game.',
        detail,
        way: 'again',
      }
}

/** What became of a move that was not made. */
export function moveFailed(error: unknown): string {
  if (RoomsError.is(error, 'UPDATE_REJECTED')) return `Not possible: ${error.details.reason}.`
  if (RoomsError.is(error, 'NO_QUORUM')) return 'Too few are here to agree on that.'
  return error instanceof Error ? error.message : String(error)
}
