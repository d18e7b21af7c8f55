// A peer of the end to end test, the same code in a tab and in Node: it enters the room, publishes
// a text under its name, reads everyone's, and keeps a log of plain lines.

/** What each peer publishes: broadcast and track; the native program's clock is read as well. */
export const TEXT = { name: 'notes', track: 'text' }
const CLOCK = { name: 'clock', track: 'clock' }

export async function startPeer(rooms, { relay, ticket, name, identity }) {
  const live = await rooms.Live.spawn({ relay, identity })
  const room = await rooms.Room.open(live, ticket, { displayName: name })
  const log = []
  const follow = async () => {
    for await (const event of room.events()) {
      log.push(line(event))
      if (event.type === 'broadcast-subscribed') void read(event).catch(() => {})
    }
  }
  const read = async ({ peer, name: broadcast, broadcast: remote }) => {
    const source = [TEXT, CLOCK].find((known) => known.name === broadcast)
    if (!source) return
    for await (const frame of remote.track(source.track).frames()) {
      const text = new TextDecoder().decode(frame.data)
      log.push({ type: 'frame', peer: peer.id, name: broadcast, text })
    }
  }
  void follow()
  const broadcast = new rooms.Broadcast()
  const track = broadcast.track(TEXT.track)
  await room.publish(TEXT.name, broadcast)
  track.write(new TextEncoder().encode(`written by ${name}`))
  return {
    id: live.endpointId,
    log: () => [...log],
    say: async (text) => void (await room.chat.send(text)),
    ticket: async () => String(await room.ticket()),
    relayUrl: async () => (await live.addr()).relayUrl,
    close: () => live.close(),
  }
}

const line = ({ type, peer, name, names, text, reason, status }) => ({
  type,
  peer: peer?.id,
  name,
  names,
  text,
  reason,
  status,
})
