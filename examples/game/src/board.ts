import { byId, part, stamp } from '../../room/src/dom.js'
import { COLUMNS, type Position, ROWS, type Side, stones, toMove, winner } from './rules.js'

export const SIDE_NAMES: Record<Side, string> = { red: 'Red', pine: 'Green' }

/** The board: a button for each column, with its places in it. */
export class Board {
  #onDrop: (column: number) => void = () => undefined
  readonly #columns: HTMLButtonElement[] = []
  readonly #places: HTMLElement[][] = []

  constructor() {
    const board = byId('board')
    for (let column = 0; column < COLUMNS; column++) {
      const button = stamp('column') as HTMLButtonElement
      const places = Array.from({ length: ROWS }, () => stamp('place'))
      part(button, '.places').append(...places.toReversed())
      button.addEventListener('click', () => {
        if (button.getAttribute('aria-disabled') === 'false') this.#onDrop(column)
      })
      this.#columns.push(button)
      this.#places.push(places)
    }
    board.append(...this.#columns)
    board.addEventListener('keydown', (event) => this.#walk(event))
    this.#focusable(3)
  }

  /**
   * From now on it can be played on.
   * @param onDrop - a column was chosen
   */
  play(onDrop: (column: number) => void): void {
    this.#onDrop = onDrop
    byId('board').inert = false
  }

  /** @param mine - the side that may move here and now, if any */
  show(game: Position, mine: Side | undefined): void {
    const columns = stones(game)
    const won = winner(game)
    const line = new Set(won?.line.map(String))
    const last = game.moves.at(-1)
    byId('board').dataset['turn'] = toMove(game) === mine && mine ? mine : ''
    this.#columns.forEach((button, column) => {
      const here = columns[column] ?? []
      const open = mine !== undefined && mine === toMove(game) && here.length < ROWS
      // Not `disabled`: one can look at the board with the keyboard while the other one thinks.
      button.setAttribute('aria-disabled', String(!open))
      const told = here.map((side) => SIDE_NAMES[side].toLowerCase()).join(', ')
      button.setAttribute('aria-label', `Column ${column + 1}: ${told || 'empty'}`)
      this.#places[column]?.forEach((place, row) => {
        const side = here[row] ?? ''
        const fresh = column === last && row === here.length - 1
        if (place.dataset['side'] === side && !side) return
        place.classList.toggle('is-new', fresh && place.dataset['side'] !== side)
        place.classList.toggle('is-last', fresh)
        place.classList.toggle('is-four', line.has(`${column},${row}`))
        place.dataset['side'] = side
        place.style.setProperty('--fall', String(ROWS - row))
      })
    })
  }

  #walk(event: KeyboardEvent): void {
    const at = this.#columns.indexOf(document.activeElement as HTMLButtonElement)
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -at, End: COLUMNS - 1 - at }[event.key]
    if (at < 0 || step === undefined) return
    event.preventDefault()
    const to = Math.min(Math.max(at + step, 0), COLUMNS - 1)
    this.#focusable(to)
    this.#columns[to]?.focus()
  }

  /** One stop for the Tab key: the arrows go on from there. */
  #focusable(column: number): void {
    this.#columns.forEach((button, i) => (button.tabIndex = i === column ? 0 : -1))
  }
}
