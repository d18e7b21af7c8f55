// Four in a row, without a page and without a network. `next` and `check` run at every participant
// and come to the same there: they use nothing but what they are given.
import type { ChangeContext, DeepReadonly } from 'iroh-rooms'

export const COLUMNS = 7
export const ROWS = 6
const FOUR = 4

export type Side = 'red' | 'pine'

/** Everything that all agree on. */
export interface Game {
  /** Endpoint ids: who plays which side. */
  seats: { red: string | null; pine: string | null }
  /** The columns that were played, red first in even rounds. */
  moves: number[]
  /** Games played before this one. */
  round: number
}

/** What somebody wants to do. */
export type Move =
  | { do: 'sit'; side: Side }
  | { do: 'stand' }
  /** `turn` is the number of moves before it: made twice, it counts once. */
  | { do: 'drop'; column: number; round: number; turn: number }
  | { do: 'again'; round: number }

export type Position = DeepReadonly<Game>

export const newGame: Game = { seats: { red: null, pine: null }, moves: [], round: 0 }

export function other(side: Side): Side {
  return side === 'red' ? 'pine' : 'red'
}

export function seatOf({ seats }: Position, id: string): Side | undefined {
  if (seats.red === id) return 'red'
  return seats.pine === id ? 'pine' : undefined
}

/** Whose stone the n-th is. */
export function sideOf({ round }: Position, turn: number): Side {
  return (turn + round) % 2 === 0 ? 'red' : 'pine'
}

/** Whose turn it is; undefined when the game is over. */
export function toMove(game: Position): Side | undefined {
  return winner(game) || game.moves.length === COLUMNS * ROWS
    ? undefined
    : sideOf(game, game.moves.length)
}

/** The stones, column by column, from the bottom. */
export function stones(game: Position): Side[][] {
  const columns: Side[][] = Array.from({ length: COLUMNS }, () => [])
  game.moves.forEach((column, turn) => columns[column]?.push(sideOf(game, turn)))
  return columns
}

/** The winner and the four places, as column and row. */
export function winner(game: Position): { side: Side; line: [number, number][] } | undefined {
  const columns = stones(game)
  for (let column = 0; column < COLUMNS; column++) {
    for (let row = 0; row < ROWS; row++) {
      const side = columns[column]?.[row]
      if (!side) continue
      for (const [right, up] of [
        [1, 0],
        [0, 1],
        [1, 1],
        [1, -1],
      ] as const) {
        const line = Array.from({ length: FOUR }, (_, step): [number, number] => [
          column + right * step,
          row + up * step,
        ])
        if (line.every(([c, r]) => columns[c]?.[r] === side)) return { side, line }
      }
    }
  }
  return undefined
}

/** Whether somebody may do that: true, or why not. Peers can send anything: nothing is believed. */
export function check(move: Move, game: Position, { author }: ChangeContext): true | string {
  const seat = seatOf(game, author)
  switch (move?.do) {
    case 'sit':
      if (move.side !== 'red' && move.side !== 'pine') return 'there is no such side'
      if (game.seats[move.side] !== null) return 'somebody sits there'
      return seat === undefined || 'you have a seat'
    case 'stand':
      return seat !== undefined || 'you have no seat'
    case 'drop': {
      if (move.round !== game.round || move.turn !== game.moves.length) return 'that turn is over'
      if (seat === undefined || seat !== toMove(game)) return 'it is not your turn'
      const column = stones(game)[move.column]
      if (!Number.isInteger(move.column) || !column) return 'there is no such column'
      return column.length < ROWS || 'that column is full'
    }
    case 'again':
      if (move.round !== game.round) return 'that game is over'
      if (toMove(game)) return 'the game is not over'
      return seat !== undefined || 'you do not play'
    default:
      return 'no move of this game'
  }
}

/** The game after a move that {@link check} allows. */
export function next(game: Position, move: Move, { author }: ChangeContext): Game {
  const { seats, moves, round } = game
  switch (move.do) {
    case 'sit':
      return { seats: { ...seats, [move.side]: author }, moves: [...moves], round }
    case 'stand': {
      const seat = seatOf(game, author)
      return { seats: { ...seats, ...(seat && { [seat]: null }) }, moves: [...moves], round }
    }
    case 'drop':
      return { seats, moves: [...moves, move.column], round }
    case 'again':
      return { seats, moves: [], round: round + 1 }
  }
}
