// The least that two tabs can do: a WebSocket server that forwards everything to the other one.

/** Bytes that may wait in the socket. */
const WAITING = 1 << 20

export class Side {
  marks = {}

  async open({ server, invite }) {
    const room = invite ?? crypto.randomUUID()
    this.socket = await connect(`${server}/${room}`)
    this.marks.ready = performance.now()
    this.socket.addEventListener('message', ({ data }) => {
      if (typeof data !== 'string') this.got(data.byteLength)
      else if (data === 'gone') this.left()
      else this.heard(data)
    })
    return room
  }

  async met() {}

  async say(text) {
    this.socket.send(text)
  }

  async blast(size, goesOn) {
    const data = new Uint8Array(size)
    while (goesOn()) {
      this.socket.send(data)
      while (this.socket.bufferedAmount > WAITING) await new Promise((go) => setTimeout(go))
    }
  }
}

/** An open socket. */
export async function connect(url) {
  const socket = new WebSocket(url)
  socket.binaryType = 'arraybuffer'
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve)
    socket.addEventListener('error', reject)
  })
  return socket
}
