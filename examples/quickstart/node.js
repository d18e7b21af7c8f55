import { Live, Room, RoomTicket } from 'iroh-rooms'

const ticket = process.argv[2] ? RoomTicket.parse(process.argv[2]) : RoomTicket.generate()
const live = await Live.spawn({ relay: ticket.relays.length > 0 ? ticket.relays : 'n0' })
const room = await Room.open(live, ticket, { displayName: 'node' })
console.log('join with', String(await room.ticket()))
process.once('SIGINT', () => void live.close()) // says goodbye, ends the loop below

for await (const event of room.events()) {
  if (event.type === 'peer-joined') await room.chat.send(`hello, ${event.peer.displayName}`)
  if (event.type === 'chat-message') console.log(`${event.peer.displayName}: ${event.text}`)
}
