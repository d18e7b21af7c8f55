// PeerJS as its guide shows it: binary serialisation, a PeerServer to meet at.
import { Peer } from 'peerjs'
import { drained, watch } from './rtc.js'

export class Side {
  marks = {}

  async open({ server, invite }) {
    const { hostname, port } = new URL(server)
    const config = { iceServers: [] }
    this.peer = new Peer({ host: hostname, port: Number(port), path: '/', config })
    this.met1 = new Promise((resolve) => {
      this.peer.on('connection', (connection) => this.take(connection, resolve))
      this.resolve = resolve
    })
    const id = await new Promise((resolve, reject) => {
      this.peer.on('open', resolve)
      this.peer.on('error', reject)
    })
    this.marks.ready = performance.now()
    if (invite) this.take(this.peer.connect(invite, { reliable: true }), this.resolve)
    return id
  }

  take(connection, resolve) {
    this.connection = connection
    connection.on('open', () => {
      watch(connection.peerConnection, connection.dataChannel, () => this.left())
      resolve()
    })
    connection.on('data', (data) =>
      typeof data === 'string' ? this.heard(data) : this.got(data.byteLength),
    )
    connection.on('close', () => this.left())
  }

  async met() {
    await this.met1
  }

  async say(text) {
    await this.connection.send(text)
  }

  async blast(size, goesOn) {
    const data = new Uint8Array(size)
    while (goesOn()) {
      await this.connection.send(data)
      await drained(this.connection.dataChannel)
      // It has a queue of its own before the channel's, which it tries again from time to time.
      while (this.connection.bufferSize > 0) await new Promise((go) => setTimeout(go))
    }
  }
}
