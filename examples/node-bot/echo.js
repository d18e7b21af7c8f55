// What the bot does in a room: it greets whoever comes and repeats what they say; once people have each
// other to talk to, it only answers to its name. Ends with the room.

export async function echo(room, print = console.log) {
  const { displayName = '' } = room.self
  const nameOf = (peer) => peer.displayName ?? peer.id.slice(0, 8)
  const isForMe = (text) =>
    room.peers.size === 1 || text.toLowerCase().includes(displayName.toLowerCase())

  // What cannot be said, because the room has just closed, is not worth ending for.
  const say = (text) =>
    room.chat.send(text).catch((error) => console.error(`not said: ${error.message}`))

  for await (const event of room.events()) {
    switch (event.type) {
      case 'peer-joined':
        print(`+ ${nameOf(event.peer)}`)
        await say(`Hello, ${nameOf(event.peer)}! I repeat what you say.`)
        break
      case 'peer-left':
        print(`- ${nameOf(event.peer)} (${event.reason})`)
        break
      case 'chat-message':
        print(`${nameOf(event.peer)}: ${event.text}`)
        if (isForMe(event.text)) await say(event.text)
        break
    }
  }
}
