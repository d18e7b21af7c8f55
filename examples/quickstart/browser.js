import { Live, Room, RoomTicket } from 'iroh-rooms'

const ticket = location.hash ? RoomTicket.parse(location.href) : RoomTicket.generate()
const live = await Live.spawn({ relay: ticket.relays.length > 0 ? ticket.relays : 'n0' })
const room = await Room.open(live, ticket, { displayName: 'browser' })
history.replaceState(null, '', (await room.ticket()).toURL(location.href)) // the address invites

const show = (line) => document.querySelector('pre').append(line, '\n')
room.on('peer-joined', ({ peer }) => show(`${peer.displayName} is here`))
room.on('peer-left', ({ peer }) => show(`${peer.displayName} is gone`))
document.forms[0].addEventListener('submit', (event) => {
  event.preventDefault()
  room.chat.send(document.forms[0].text.value).then(() => document.forms[0].reset(), show)
})
for await (const { peer, text } of room.chat.messages()) show(`${peer.displayName}: ${text}`)
