// A bot that keeps a room open: `node bot.js [ticket or link] [--name NAME]`. What it does there is in
// echo.js. Ctrl-C makes it leave.

import { parseArgs } from 'node:util'
import { Live, Room, RoomTicket } from 'iroh-rooms'
import { echo } from './echo.js'

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

await echo(room)
