// A game in one page. The way in, step by step:
//  1. a person says a name;
//  2. with `#game=<room id>` in the address it knocks there, else it founds a room;
//  3. whoever stands at the door is asked, unless it plays already: a reload needs no knock;
//  4. Table shows what all agree on, and proposes what is done here.
import { Room, type StateRoom, type StateRoomOptions } from 'iroh-rooms'
import { byId, part } from '../../room/src/dom.js'
import { cleanName, ownName, rememberName } from '../../room/src/names.js'
import { setUpCopyLink } from '../../room/src/share.js'
import { Board } from './board.js'
import { askAboutGuest } from './door.js'
import { type Game, type Move, check, newGame, next, seatOf } from './rules.js'
import { Table } from './table.js'
import { explain } from './words.js'

/** Set once this tab was in a game: then a reload knocks by itself. */
const WAS_IN = 'iroh-rooms-example:game'

const field = byId('name-input', HTMLInputElement)
const form = byId('entrance', HTMLFormElement)
const game = new URLSearchParams(location.hash.slice(1)).get('game') ?? undefined

const board = new Board()
board.show(newGame, undefined)

field.value = ownName()
byId('enter').textContent = game ? 'Knock at the door' : 'Start a game'
form.addEventListener('submit', (event) => {
  event.preventDefault()
  void enter(game)
})
setUpCopyLink()
addEventListener('hashchange', () => location.reload())
if (game && sessionStorage.getItem(WAS_IN) === game) void enter(game)
else field.focus()

async function enter(id: string | undefined, kept?: string): Promise<void> {
  const name = cleanName(field.value) || ownName()
  rememberName(name)
  form.hidden = true
  byId('trouble').hidden = true
  byId('status').textContent = id ? 'Knocking… somebody has to let you in' : 'Setting the table…'
  try {
    const room = open(name, id, kept)
    await room.ready
    sessionStorage.setItem(WAS_IN, room.id)
    show(room)
    room.on('rotated', () => show(room))
    void room.closed.then(({ reason, error }) => {
      if (reason === 'kicked') fail(new Error('You were shown out of the room.'))
      else if (error) fail(error)
    })
    document.body.classList.add('is-in')
    void new Table(room, board)
  } catch (error) {
    fail(error)
  }
}

function open(
  name: string,
  id: string | undefined,
  kept: string | undefined,
): StateRoom<Game, Move> {
  const relay = new URLSearchParams(location.search).getAll('relay').filter(Boolean)
  const options: StateRoomOptions<Game, Move> = {
    relay: relay.length > 0 ? relay : import.meta.env['VITE_RELAY'] || 'n0',
    displayName: name,
    reducer: next,
    validate: check,
    // Any of us may be the doorman when somebody knocks.
    admit: (hello, { signal }) => {
      const { state } = room
      const known = state && seatOf(state, hello.endpointId) !== undefined
      return known || askAboutGuest(hello, signal)
    },
    // Alone, a reload ends the room; what was agreed on is kept here and can begin the next one.
    persist: 'local',
    ...(kept === undefined ? {} : { restore: kept }),
  }
  const room: StateRoom<Game, Move> = id
    ? Room.join<Game, Move>(name, id, options)
    : Room.create<Game, Move>(name, newGame, options)
  return room
}

/** The address invites. */
function show(room: StateRoom<Game, Move>): void {
  history.replaceState(null, '', `${location.search}#game=${room.id}`)
  byId('copy-link').hidden = false
}

function fail(error: unknown): void {
  const { title, text, detail, way } = explain(error)
  const trouble = byId('trouble')
  document.body.classList.remove('is-in')
  byId('status').textContent = title
  part(trouble, '.trouble-title').textContent = title
  part(trouble, '.trouble-text').textContent = text
  part(trouble, '.trouble-detail').textContent = detail
  part(trouble, '.trouble-again').hidden = way !== 'again'
  part(trouble, '.trouble-new').hidden = way === 'name'
  trouble.hidden = false
  form.hidden = way !== 'name'
  if (way === 'name') field.select()
}

part(byId('trouble'), '.trouble-again').addEventListener('click', () => location.reload())
part(byId('trouble'), '.trouble-new').addEventListener('click', () => void enter(undefined, game))
