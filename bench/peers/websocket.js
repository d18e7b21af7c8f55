// The least that two tabs can do: a WebSocket server that forwards everything to the other one.
export class Side {
  #bulk = []
  #wake = () => {}

  async open({ relay }) {
    const begun = performance.now()
    this.socket = new WebSocket(relay)
    this.socket.binaryType = 'arraybuffer'
    this.socket.addEventListener('message', ({ data }) => {
      if (typeof data === 'string') this.heard?.(data)
      else {
        this.#bulk.push(data.byteLength)
        this.#wake()
      }
    })
    await new Promise((resolve, reject) => {
      this.socket.addEventListener('open', resolve)
      this.socket.addEventListener('error', reject)
    })
    return { invite: '', spawnMs: performance.now() - begun }
  }

  async met() {}

  async say(text) {
    this.socket.send(text)
  }

  async blast(size, ms) {
    const data = new Uint8Array(size)
    const end = performance.now() + ms
    while (performance.now() < end) {
      this.socket.send(data)
      while (this.socket.bufferedAmount > 1 << 20)
        await new Promise((resolve) => setTimeout(resolve))
    }
  }

  async *bulk() {
    for (;;) {
      if (this.#bulk.length === 0) await new Promise((resolve) => (this.#wake = resolve))
      yield* this.#bulk.splice(0)
    }
  }

  async close() {
    this.socket.close()
  }
}
