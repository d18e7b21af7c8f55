// A bot that keeps a room open: `node bot.js [ticket or link] [--name NAME]`. It greets whoever comes
// and repeats what they say; once people have each other to talk to, it only answers to its name.
// Ctrl-C makes it leave.

import { parseArgs } from 'node:util'
import { Live, Room, RoomTicket } from 'iroh-rooms'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { name: { type: 'string', default: 'Echo' } },
})
const ticket = positionals[0] ? RoomTicket.parse(positionals[0]) : RoomTicket.generate()
const live = await Live.spawn({ relay: ticket.relays.length > 0 ? ticket.relays : 'n0' })
const room = await Room.open(live, ticket, { displayName: values.name })
console.log('join with', String(await room.ticket()))

// Leaving ends `events()`, and with the Worker closed Node ends by itself.
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => void live.close())

const nameOf = (peer) => peer.displayName ?? peer.id.slice(0, 8)
const isForMe = (text) =>
  room.peers.size === 1 || text.toLowerCase().includes(values.name.toLowerCase())

// What cannot be said, because the room has just closed, is not worth ending for.
const say = (text) =>
  room.chat.send(text).catch((error) => console.error(`not said: ${error.message}`))

for await (const event of room.events()) {
  switch (event.type) {
    case 'peer-joined':
      console.log(`+ ${nameOf(event.peer)}`)
      await say(`Hello, ${nameOf(event.peer)}! I repeat what you say.`)
      break
    case 'peer-left':
      console.log(`- ${nameOf(event.peer)} (${event.reason})`)
      break
    case 'chat-message':
      console.log(`${nameOf(event.peer)}: ${event.text}`)
      if (isForMe(event.text)) await say(event.text)
      break
  }
}
