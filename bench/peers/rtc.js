// A plain RTCDataChannel. The two sides signal through the WebSocket relay and leave it when they
// have each other: what is noticed afterwards, WebRTC has noticed by itself.
import { connect } from './websocket.js'

/** Bytes that may wait in a channel; it is filled again when a quarter is left. */
const WAITING = 1 << 20

export class Side {
  marks = {}

  async open({ server, invite }) {
    const room = invite ?? crypto.randomUUID()
    this.signals = await connect(`${server}/${room}`)
    this.marks.ready = performance.now()
    this.peer = new RTCPeerConnection({ iceServers: [] })
    this.texts = this.peer.createDataChannel('texts', { negotiated: true, id: 0 })
    this.bulk = this.peer.createDataChannel('bulk', { negotiated: true, id: 1 })
    this.bulk.binaryType = 'arraybuffer'
    this.texts.addEventListener('message', ({ data }) => this.heard(data))
    this.bulk.addEventListener('message', ({ data }) => this.got(data.byteLength))
    this.open1 = new Promise((resolve) => this.texts.addEventListener('open', resolve))
    void this.open1.then(() => this.signals.close())
    const tell = (signal) => this.signals.send(JSON.stringify(signal))
    this.peer.addEventListener('icecandidate', ({ candidate }) => candidate && tell({ candidate }))
    this.signals.addEventListener('message', ({ data }) => {
      if (data !== 'gone') this.turn = this.take(JSON.parse(data), tell)
    })
    watch(this.peer, this.texts, () => this.left())
    if (invite) {
      await this.peer.setLocalDescription()
      tell({ description: this.peer.localDescription })
    }
    return room
  }

  async take({ description, candidate }, tell) {
    await this.turn
    if (candidate) return this.peer.addIceCandidate(candidate)
    await this.peer.setRemoteDescription(description)
    if (description.type !== 'offer') return
    await this.peer.setLocalDescription()
    tell({ description: this.peer.localDescription })
  }

  async met() {
    await this.open1
  }

  async say(text) {
    this.texts.send(text)
  }

  async blast(size, goesOn) {
    const data = new Uint8Array(size)
    while (goesOn()) {
      this.bulk.send(data)
      await drained(this.bulk)
    }
  }
}

/** Waits while too much waits in the channel. */
export async function drained(channel) {
  if (channel.bufferedAmount <= WAITING) return
  channel.bufferedAmountLowThreshold = WAITING / 4
  await new Promise((go) => channel.addEventListener('bufferedamountlow', go, { once: true }))
}

/** Calls back at the first sign of the other side's end, whichever that is. */
export function watch(peer, channel, left) {
  channel.addEventListener('close', left)
  peer.addEventListener('connectionstatechange', () => {
    if (['disconnected', 'failed', 'closed'].includes(peer.connectionState)) left()
  })
}
