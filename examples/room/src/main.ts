// A room in one page. The way in, step by step:
//  1. the page can be used at once, under the name of last time or a friendly new one;
//  2. the address bar says which room, or a new one is made;
//  3. Live is this tab's identity and network, Room the room on it;
//  4. Page brings every event of the room to the part of the page that shows it.
import { Live, Room, type RoomTicket } from 'iroh-rooms'
import { readAddress, showTicket } from './address.js'
import { Cast } from './cast.js'
import { setTable } from './chairs.js'
import { setUpComposer } from './composer.js'
import { byId } from './dom.js'
import { ownName } from './names.js'
import { setUpOwnName } from './own-name.js'
import { Page } from './page.js'
import { roomName } from './room-name.js'
import { setUpCopyLink } from './share.js'
import { showStatus } from './status.js'
import { showTrouble } from './trouble.js'

let name = ownName()
const page = enter()

page
  .then((entered) => entered.run())
  .catch((error: unknown) => {
    showStatus('disconnected')
    showTrouble(error)
  })

showStatus('connecting')
setTable(new Cast())
setUpCopyLink()
showGame(import.meta.env['VITE_GAME'])
// What is typed before the room is open waits for it.
setUpComposer(async (text) => (await page).say(text))
setUpOwnName(name, (next) => {
  name = next
  void rename(next)
})

byId('skip').addEventListener('click', (event) => {
  // A jump by `#…` would overwrite the ticket.
  event.preventDefault()
  byId('chat-input').focus()
})
// Another ticket in the same tab is another room.
addEventListener('hashchange', () => location.reload())

/** The other example, where it is served beside this one. */
function showGame(address: string | undefined): void {
  const link = byId('game-link', HTMLAnchorElement)
  if (address === undefined) return
  link.href = address
  link.hidden = false
}

async function rename(to: string): Promise<void> {
  const entered = await page.catch(() => undefined)
  entered?.rename(to)
}

async function enter(): Promise<Page> {
  const { ticket, relay } = readAddress()
  showTicket(ticket)
  showRoomName(ticket)
  const live = await Live.spawn({ relay, identity: 'tab' })
  return new Page(await Room.open(live, ticket, { displayName: name }))
}

function showRoomName(ticket: RoomTicket): void {
  document.title = roomName(ticket.topicId)
  byId('room-name').textContent = document.title
}
