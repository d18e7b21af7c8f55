// This library: messages are chat, bulk is a track.
import { Broadcast, Live, Room, RoomTicket } from '../../dist/index.js'

/** Frames in one group: a reader that comes late starts at a group. */
const GROUP = 64
/** Bytes that may be under way: MoQ drops what a reader cannot follow, this one should follow. */
const WINDOW = 4 << 20

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

  /** Sends for a while, at most WINDOW bytes ahead of what the other side says it has. */
  async blast(size, ms) {
    const broadcast = new Broadcast()
    const track = broadcast.track('bulk', { maxAgeMs: 30_000 })
    const flow = { received: 0, wake: () => {} }
    const credit = this.room.channel(`credit-${size}`)
    void (async () => {
      for await (const { value } of credit) {
        flow.received = value
        flow.wake()
      }
    })()
    await this.room.publish(`bulk-${size}`, broadcast)
    const data = new Uint8Array(size)
    const end = performance.now() + ms
    let group = track.group()
    for (let sent = 1; performance.now() < end; sent++) {
      group.write(data)
      await track.ready
      if (sent % GROUP === 0) {
        group.close()
        group = track.group()
      }
      while ((sent - flow.received) * size > WINDOW && performance.now() < end) {
        // A lost wake-up costs a tenth of a second, not the run.
        await new Promise((resolve) => {
          flow.wake = resolve
          setTimeout(resolve, 100)
        })
      }
    }
    group.close()
    await new Promise((resolve) => setTimeout(resolve, 500))
    await track.close()
  }

  async *bulk(size) {
    const [peer] = this.room.peers.keys()
    const remote = await this.room.subscribe(peer, `bulk-${size}`)
    const credit = this.room.channel(`credit-${size}`)
    const reader = remote.track('bulk', { maxAgeMs: 30_000, start: 0 })
    let frames = 0
    for await (const { data } of reader.frames()) {
      if (++frames % Math.ceil(WINDOW / size / 8) === 0) void credit.send(frames)
      yield data.byteLength
    }
  }

  async close() {
    await this.live.close()
  }
}
