// y-webrtc: who is there is told by its awareness. It meets over a signalling server.
import { WebrtcProvider } from 'y-webrtc'
import { Doc } from 'yjs'

export class Side {
  async open({ server, invite }) {
    const id = invite ?? crypto.randomUUID()
    this.provider = new WebrtcProvider(id, new Doc(), {
      signaling: [server],
      peerOpts: { config: { iceServers: [] } },
    })
    this.provider.awareness.setLocalState({ here: true })
    return id
  }

  async seen(count) {
    const { awareness } = this.provider
    while (awareness.getStates().size <= count)
      await new Promise((resolve) => awareness.once('change', resolve))
  }

  links() {
    return { connections: this.provider.room.webrtcConns.size }
  }
}
