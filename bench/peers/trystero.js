// Trystero with its default strategy: it meets over a Nostr relay.
import { joinRoom } from 'trystero'

export class Side {
  marks = {}

  async open({ server, invite }) {
    const id = invite ?? crypto.randomUUID()
    const config = {
      appId: 'iroh-rooms-bench',
      relayConfig: { urls: [server] },
      rtcConfig: { iceServers: [] },
    }
    this.room = joinRoom(config, id)
    this.texts = this.room.makeAction('texts')
    this.bulk = this.room.makeAction('bulk')
    this.texts.onMessage = (text) => this.heard(text)
    this.bulk.onMessage = (data) => this.got(data.byteLength)
    this.met1 = new Promise((resolve) => {
      this.room.onPeerJoin = () => {
        resolve()
        this.onJoin?.()
      }
    })
    this.room.onPeerLeave = () => this.left()
    return id
  }

  async met() {
    await this.met1
  }

  async seen(count) {
    while (this.links().connections < count) await new Promise((resolve) => (this.onJoin = resolve))
  }

  links() {
    return { connections: Object.keys(this.room.getPeers()).length }
  }

  async say(text) {
    await this.texts.send(text)
  }

  async blast(size, goesOn) {
    const data = new Uint8Array(size)
    while (goesOn()) await this.bulk.send(data)
  }
}
