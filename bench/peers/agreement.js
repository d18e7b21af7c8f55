// This library, a room with a doorman: the methods of crates/cli/examples/peer.rs, in a tab.
import { Live, Room } from '../../dist/index.js'

const TRIPS = 'trips'
/** Bytes of a round trip's message, and of a change: with what JSON adds, about 200 and 100. */
const TRIP_BYTES = 170
const CHANGE_BYTES = 85
/** Changes under way at once where their number counts: as many as a member may have. */
const AT_ONCE = 64
/** Between two looks. */
const PAUSE_MS = 20

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const change = (n) => ({ last: String(n).padStart(CHANGE_BYTES) })

export class Side {
  async start({ server }) {
    this.live = await Live.spawn({ relay: server })
    return this.live.endpointId
  }

  async create({ name, voters }) {
    this.room = await Room.create(name, {}, { live: this.live, voters }).ready
    return this.room.id
  }

  async join({ id, name, voters }) {
    const begun = performance.now()
    this.room = await Room.join(name, id, { live: this.live, voters }).ready
    return { ms: performance.now() - begun }
  }

  async voting(count) {
    while (this.room.consensus.voters.length !== count) await wait(PAUSE_MS)
  }

  standing() {
    return this.room.consensus.isDoorman
  }

  echo() {
    const channel = this.room.channel(TRIPS)
    const messages = channel.messages()
    void (async () => {
      for await (const { from, value } of messages) {
        const [what, n, filling] = value
        if (what === 'ping') await channel.send(['pong', n, filling], { to: from })
      }
    })()
  }

  async trips({ to, count }) {
    const channel = this.room.channel(TRIPS)
    const messages = channel.messages()
    const trips = []
    for (let n = 0; n <= count; n++) {
      const begun = performance.now()
      await channel.send(['ping', n, 'x'.repeat(TRIP_BYTES)], { to })
      for (let pong; pong !== n;) {
        const { value } = await messages.next()
        if (value.value[0] === 'pong') pong = value.value[1]
      }
      // The first one opens the way.
      if (n > 0) trips.push(performance.now() - begun)
    }
    await messages.return()
    return trips
  }

  async updates(count) {
    const times = []
    for (let n = 0; n < count; n++) {
      const begun = performance.now()
      await this.room.update(change(n))
      times.push(performance.now() - begun)
    }
    return times
  }

  async rate(ms) {
    const begun = performance.now()
    const goesOn = () => performance.now() - begun < ms
    let made = 0
    const worker = async (n) => {
      for (; goesOn(); n += AT_ONCE) {
        await this.room.update(change(n))
        if (goesOn()) made++
      }
    }
    await Promise.all(Array.from({ length: AT_ONCE }, (_, n) => worker(n)))
    return made / (ms / 1000)
  }
}
