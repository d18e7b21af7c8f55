// This library: messages are chat, bulk is a track.
import { Broadcast, Live, Room, RoomTicket } from '../../dist/index.js'

/** Frames in one group: a reader that comes late starts at a group. */
const GROUP = 64

export class Side {
  async open({ relay, invite }) {
    this.begun = performance.now()
    this.live = await Live.spawn({ relay })
    this.spawned = performance.now()
    this.room = await Room.open(this.live, invite ?? RoomTicket.generate())
    this.room.on('chat-message', ({ text }) => this.heard?.(text))
    return { invite: String(await this.room.ticket()), spawnMs: this.spawned - this.begun }
  }

  async met() {
    while (this.room.peers.size === 0) await new Promise((resolve) => setTimeout(resolve, 2))
  }

  async say(text) {
    await this.room.chat.send(text)
  }

  async blast(size, ms) {
    const broadcast = new Broadcast()
    const track = broadcast.track('bulk', { maxAgeMs: 30_000 })
    await this.room.publish(`bulk-${size}`, broadcast)
    const data = new Uint8Array(size)
    const end = performance.now() + ms
    let group = track.group()
    for (let n = 1; performance.now() < end; n++) {
      group.write(data)
      await track.ready
      if (n % GROUP === 0) {
        group.close()
        group = track.group()
      }
    }
    group.close()
    await track.close()
  }

  async *bulk(size) {
    const [peer] = this.room.peers.keys()
    const remote = await this.room.subscribe(peer, `bulk-${size}`)
    const reader = remote.track('bulk', { maxAgeMs: 30_000, start: 0 })
    for await (const { data } of reader.frames()) yield data.byteLength
  }

  async close() {
    await this.live.close()
  }
}
