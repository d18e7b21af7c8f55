// This library without a room: one writer, and many readers in the other tab, each an endpoint with a
// Worker, a connection and a session of its own.
import { Broadcast, Live } from '../../dist/index.js'

const MAX_AGE_MS = 30_000
/** Bytes of a frame that carries the time at which it was written. */
const STAMPED = 1024
const STAMP_EVERY_MS = 20

const epoch = () => performance.timeOrigin + performance.now()

export class Side {
  readers = []

  async open({ server }) {
    this.live = await Live.spawn({ relay: server })
    return this.live.addr()
  }

  /** Frames for as long as `goesOn()`, as fast as the writer is let. */
  async blast(size, goesOn) {
    const { broadcast, track } = await this.publish(`bulk-${size}`)
    const data = new Uint8Array(size)
    await track.used()
    while (goesOn()) {
      track.write(data)
      await track.ready
    }
    await broadcast.close()
  }

  /** Frames with the time in them, at leisure. */
  async stamp(goesOn) {
    const { broadcast, track } = await this.publish('stamps')
    const data = new Uint8Array(STAMPED)
    while (goesOn()) {
      new DataView(data.buffer).setFloat64(0, epoch())
      track.write(data)
      await new Promise((go) => setTimeout(go, STAMP_EVERY_MS))
    }
    await broadcast.close()
  }

  async publish(name) {
    const broadcast = new Broadcast()
    const track = broadcast.track('frames', { maxAgeMs: MAX_AGE_MS })
    await this.live.moq.publish(name, broadcast)
    return { broadcast, track }
  }

  /** One more reader; ms until it had a session. */
  async connect({ server, addr }) {
    const live = await Live.spawn({ relay: server })
    const begun = performance.now()
    const session = await live.moq.connect(addr)
    const ms = performance.now() - begun
    this.readers.push({ live, session })
    return ms
  }

  /** All read; `each` gets every frame. ms until each had its first frame. */
  subscribe(name, each) {
    const begun = performance.now()
    const read = async ({ session }) => {
      const remote = await session.subscribe(name)
      const frames = remote.track('frames', { maxAgeMs: MAX_AGE_MS }).frames()
      const { value } = await frames.next()
      const first = performance.now() - begun
      each(value)
      void (async () => {
        for await (const frame of frames) each(frame)
      })()
      return first
    }
    return Promise.all(this.readers.map(read))
  }

  async receive(size) {
    this.firsts = await this.subscribe(`bulk-${size}`, ({ data }) => this.got(data.byteLength))
  }

  /** ms from writing to reading of what comes in `ms`. */
  async latencies(ms) {
    const latencies = []
    await this.subscribe('stamps', ({ data }) => {
      const { buffer, byteOffset } = data
      latencies.push(epoch() - new DataView(buffer, byteOffset).getFloat64(0))
    })
    await new Promise((go) => setTimeout(go, ms))
    return latencies
  }
}
