import { RoomsError, type StateRoom } from 'iroh-rooms'
import { announce, byId, part } from '../../room/src/dom.js'
import { type Board, SIDE_NAMES } from './board.js'
import { nameOf, showPeople } from './people.js'
import { type Game, type Move, newGame, seatOf, toMove, winner } from './rules.js'
import { moveFailed, standing } from './words.js'

/** How often a move is made whose fate is not known. Made twice, it counts once. */
const TRIES = 3

/** The room at the table: what is agreed on is shown, what is done here is proposed. */
export class Table {
  readonly #room: StateRoom<Game, Move>
  readonly #board: Board

  constructor(room: StateRoom<Game, Move>, board: Board) {
    this.#room = room
    this.#board = board
    board.play((column) => {
      const { round, moves } = room.state ?? newGame
      void this.#make({ do: 'drop', column, round, turn: moves.length })
    })
    for (const side of ['red', 'pine'] as const) {
      part(byId(`chair-${side}`), 'button').addEventListener('click', () => {
        void this.#make(room.state?.seats[side] === null ? { do: 'sit', side } : { do: 'stand' })
      })
    }
    byId('again').addEventListener('click', () => {
      void this.#make({ do: 'again', round: room.state?.round ?? 0 })
    })
    byId('recover').addEventListener('click', () => {
      room.recover({ acceptLoss: true }).catch((error: unknown) => this.#say(moveFailed(error)))
    })
    const show = (): void => this.#show()
    for (const type of [
      'peer-joined',
      'peer-left',
      'doorman-changed',
      'quorum-lost',
      'quorum-restored',
      'recovered',
      'status',
    ] as const) {
      room.on(type, show)
    }
    room.on('state-update', () => {
      this.#say('')
      this.#show()
      this.#tell()
    })
    // Voters are promoted without an event.
    setInterval(show, 1_000)
    this.#show()
  }

  async #make(move: Move): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await this.#room.update(move)
        return
      } catch (error) {
        // It may have been made, or not: every move says which turn it is for.
        if (RoomsError.is(error, 'UPDATE_UNKNOWN') && tries < TRIES) continue
        return this.#say(moveFailed(error))
      }
    }
  }

  #show(): void {
    const { state: game, self, consensus, participants, status } = this.#room
    if (!game) return
    const stuck = consensus.status === 'read-only'
    const line = byId('status')
    line.textContent =
      status === 'reconnecting' ? 'Reconnecting…' : standing(consensus, participants.length)
    line.dataset['status'] = consensus.status
    this.#board.show(game, stuck ? undefined : seatOf(game, self.id))
    showPeople(this.#room, game)
    byId('recover').hidden = !stuck
    byId('again').hidden = toMove(game) !== undefined || seatOf(game, self.id) === undefined
    byId('result').textContent = this.#result()
  }

  #result(): string {
    const { state: game } = this.#room
    if (!game || toMove(game)) return ''
    const won = winner(game)
    if (!won) return 'The board is full: a draw.'
    const name = nameOf(this.#room, game.seats[won.side])
    return `${name === 'You' ? 'You have' : `${name} has`} four in a row.`
  }

  /** For those who listen: the last move, and whose turn it is. */
  #tell(): void {
    const { state: game, self } = this.#room
    const column = game?.moves.at(-1)
    const side = game && toMove(game)
    if (!game || column === undefined) return
    const turn = side
      ? seatOf(game, self.id) === side
        ? 'It is your turn.'
        : `${SIDE_NAMES[side]} is next.`
      : this.#result()
    announce(`Column ${column + 1}. ${turn}`)
  }

  #say(text: string): void {
    byId('note').textContent = text
  }
}
