// This library: texts are chat, bulk is a track. `tuning` and `worker` switch its levers.
import { Broadcast, Live, Room, RoomTicket } from '../../dist/index.js'

/** Frames in one group. */
const GROUP = 64
const MAX_AGE_MS = 30_000

export class Side {
  marks = {}

  async start({ server, tuning, worker }) {
    this.live = await Live.spawn({
      relay: server,
      ...(tuning ? { tuning } : {}),
      ...(worker ? { worker: new URL(worker, location.href) } : {}),
    })
    this.marks.ready = performance.now()
  }

  async open({ invite, ...options }) {
    if (!this.live) await this.start(options)
    this.room = await Room.open(this.live, invite ?? RoomTicket.generate())
    this.marks.opened = performance.now()
    this.room.on('chat-message', ({ text }) => this.heard(text))
    this.room.on('peer-left', () => this.left())
    return String(await this.room.ticket())
  }

  async met() {
    const joined = new Promise((resolve) => this.room.once('peer-joined', resolve))
    if (this.room.peers.size === 0) await joined
  }

  async seen(count) {
    while (this.room.peers.size < count)
      await new Promise((resolve) => this.room.once('peer-joined', resolve))
  }

  /** Sessions and links of the gossip are connections; bytes are those of the sessions. */
  async links() {
    const { sessions, neighbors } = await this.room.stats()
    const bytes = { relay: 0, direct: 0, none: 0 }
    for (const { path, bytesSent, bytesReceived } of await this.room.diagnose())
      bytes[path] += bytesSent + bytesReceived
    return { connections: sessions + neighbors, bytes }
  }

  /** The core's own marks count from its start in the Worker; `relay` is when `ready` is said. */
  async steps() {
    const { firstMs } = await this.live.stats()
    if (!firstMs) return
    const begun = this.marks.ready - firstMs.relay
    this.marks['core begins'] = begun
    for (const [name, ms] of Object.entries(firstMs)) this.marks[`core: ${name}`] = begun + ms
  }

  async say(text) {
    await this.room.chat.send(text)
  }

  async blast(size, goesOn) {
    const broadcast = new Broadcast()
    const track = broadcast.track('bulk', { maxAgeMs: MAX_AGE_MS })
    await this.room.publish(`bulk-${size}`, broadcast)
    const data = new Uint8Array(size)
    await track.used()
    while (goesOn()) {
      const group = track.group()
      for (let n = 0; n < GROUP && goesOn(); n++) {
        group.write(data)
        await track.ready
      }
      group.close()
    }
    await track.close()
    await broadcast.close()
  }

  async receive(size) {
    const [peer] = this.room.peers.keys()
    const remote = await this.room.subscribe(peer, `bulk-${size}`)
    const reader = remote.track('bulk', { maxAgeMs: MAX_AGE_MS, start: 0 })
    void (async () => {
      for await (const { data } of reader.frames()) this.got(data.byteLength)
    })()
  }

  /** Bytes of WebAssembly memory. */
  async held() {
    return (await this.live.stats()).memoryBytes
  }

  // The boundary between page and Worker: the real core, pump and port, and nothing on the network
  // while the time runs. What crosses was received before and waits in the core.

  /** Cursors that nobody reads: each has a window of events on the page, and as many in the core. */
  async openCursors(count) {
    this.cursors = Array.from({ length: count }, () => this.room.events())
    // Answered after the Worker has opened them: what came before is not theirs.
    await this.live.stats()
  }

  /** µs for each event that crosses, of those that wait in the core: one figure for each cursor. */
  async drainCursors({ events, inPage }) {
    const costs = []
    // Credit is granted again when half of what is on the page was taken: until then nothing crosses.
    const quiet = inPage / 2 - 1
    for (const cursor of this.cursors) {
      const begun = performance.now()
      for (let n = 0; n < quiet; n++) await cursor.next()
      const reading = ((performance.now() - begun) / quiet) * inPage
      let last
      for (let n = quiet; n < events; n++) last = (await cursor.next()).value
      costs.push(((performance.now() - begun - reading) * 1000) / (events - inPage))
      if (last.type !== 'chat-message') throw new Error(`${last.type} instead of a message`)
      await cursor.return()
    }
    return costs
  }

  /** µs for each frame that crosses to the Worker; afterwards as many wait in a track for a reader. */
  async publishFrames({ name, size, count }) {
    const broadcast = new Broadcast()
    await this.room.publish(name, broadcast)
    const data = new Uint8Array(size)
    const write = async (track) => {
      const group = track.group()
      for (let n = 0; n < count; n++) {
        group.write(data)
        await track.ready
      }
      group.close()
    }
    const timed = broadcast.track('timed')
    const begun = performance.now()
    await write(timed)
    // Answered when the Worker has taken everything.
    await timed.close()
    const cost = ((performance.now() - begun) * 1000) / count
    // This one stays open: a track that has ended is not offered any more.
    await write(broadcast.track('frames', { maxAgeMs: 600_000 }))
    return cost
  }

  /** µs for each frame that crosses to the page. The first reader fetches them, the second is timed. */
  async drainFrames({ name, count, inPage }) {
    const [peer] = this.room.peers.keys()
    const remote = await this.room.subscribe(peer, name)
    const read = () => remote.track('frames', { maxAgeMs: 600_000, start: 0 }).frames()
    const [first, second] = [read(), read()]
    for (let n = 0; n < count; n++) await first.next()
    const begun = performance.now()
    for (let n = 0; n < count; n++) await second.next()
    return ((performance.now() - begun) * 1000) / (count - inPage)
  }

  /** µs for a call to the Worker and its answer. */
  async call() {
    const begun = performance.now()
    await this.live.stats()
    return (performance.now() - begun) * 1000
  }
}
