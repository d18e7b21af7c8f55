import type * as Ws from 'ws'

type WebSocketClass = new (url: string, protocols?: string | string[]) => Ws.WebSocket

/** The WebSocket of the package `ws`, as browsers behave where it does not. */
export function likeBrowsers(ws: typeof Ws): WebSocketClass {
  return class WebSocket extends ws.WebSocket {
    constructor(url: string, protocols?: string | string[]) {
      super(url, protocols, { allowSynchronousEvents: false })
      // An error that nobody listens for is nobody's business, and does not end the Worker: one that is
      // closed before it was open says so when the core has let go of it.
      this.on('error', () => undefined)
      // A message that comes right behind the handshake is delivered before what waits for `open`
      // runs, unlike in browsers: nobody would be listening yet.
      this.once('open', () => {
        this.pause()
        setImmediate(() => this.resume())
      })
    }
  }
}
