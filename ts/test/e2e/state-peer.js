// A participant of the end to end test of rooms with a doorman, the same code in a tab and in Node.
// In Node it is a program of its own, to be killed: `node state-peer.js <relay> <name> [room id]`.
// It writes one JSON object a line, and adds what it reads to the shared list.

/** How long a change may take, elections included. */
const PATIENCE_MS = 60_000

/** Enters a room, or founds one, and tells by `tell` what there is to know. */
export async function startParticipant(rooms, { relay, name, id, identity = 'memory' }, tell) {
  const options = { live: { relay, identity }, joinTimeoutMs: PATIENCE_MS }
  const room = id
    ? rooms.Room.join(name, id, options)
    : rooms.Room.create(name, { list: [] }, options)
  const show = () => {
    const { state, consensus, participants } = room
    tell({
      type: 'now',
      list: state?.list ?? [],
      status: consensus.status,
      isDoorman: consensus.isDoorman,
      voters: consensus.voters.length,
      participants: participants.map(({ participantId }) => participantId).toSorted(),
    })
  }
  await room.ready
  tell({ type: 'ready', id: room.id, endpointId: room.self.id })
  for (const type of ['state-update', 'doorman-changed', 'quorum-lost', 'quorum-restored']) {
    room.on(type, show)
  }
  // Voters and participants change without an event.
  setInterval(show, 200)
  show()
  return {
    room,
    /**
     * Adds to the list, once; true when that is certain. What is not made, or not known to be, is
     * proposed again: with the list that it is based on, so it cannot be made twice.
     */
    add: async (item) => {
      for (const until = Date.now() + PATIENCE_MS; Date.now() < until;) {
        const { list } = room.state
        if (list.includes(item)) {
          tell({ type: 'added', item })
          return true
        }
        const patch = [
          { op: 'test', path: '/list', value: list },
          { op: 'add', path: '/list/-', value: item },
        ]
        await room.update(patch, { format: 'json-patch' }).catch(async ({ code }) => {
          tell({ type: 'again', item, code })
          await new Promise((resolve) => setTimeout(resolve, 200))
        })
      }
      tell({ type: 'failed', item })
      return false
    },
    /** Adds so many to the list, some at a time; tells which are certain, and of which it is not known. */
    write: async (count) => {
      const made = []
      const unknown = []
      const left = Array.from({ length: count }, (_, n) => `${name} ${n}`)
      const writer = async () => {
        for (let item = left.shift(); item !== undefined; item = left.shift()) {
          for (const until = Date.now() + PATIENCE_MS; ;) {
            const patch = [{ op: 'add', path: '/list/-', value: item }]
            const code = await room.update(patch, { format: 'json-patch' }).then(
              () => undefined,
              (error) => error.code,
            )
            if (code === undefined) made.push(item)
            else if (code === 'UPDATE_UNKNOWN') unknown.push(item)
            else if (Date.now() < until) {
              // Refused for certain: there is nobody at the moment to agree with.
              await new Promise((resolve) => setTimeout(resolve, 100))
              continue
            }
            break
          }
        }
      }
      await Promise.all(Array.from({ length: 4 }, writer))
      tell({ type: 'written', made, unknown })
      return { made, unknown }
    },
  }
}

if (typeof process === 'object' && process.argv[1]?.endsWith('state-peer.js')) {
  const [, , relay, name, id] = process.argv
  const rooms = await import('../../../dist/node.js')
  const { createInterface } = await import('node:readline')
  const peer = await startParticipant(rooms, { relay, name, id }, (line) =>
    console.log(JSON.stringify(line)),
  )
  for await (const line of createInterface({ input: process.stdin })) {
    const count = /^write (\d+)$/.exec(line)?.[1]
    void (count ? peer.write(Number(count)) : peer.add(line))
  }
}
