// Chromium over its own protocol, without a library: those turn on the Network domain, which sends
// every WebSocket message through the browser's process to the debugger, and so would measure itself.

import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { WebSocket } from 'ws'
import { at, start, stop } from '../tools/lib.mjs'

const LIMIT_MS = 20_000
const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-extensions',
  '--disable-component-update',
  '--disable-background-networking',
  '--disable-sync',
  '--no-first-run',
  '--mute-audio',
  // Both tabs are as if they were in front.
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
  // Names instead of addresses need mDNS, which has nobody to answer here.
  '--disable-features=WebRtcHideLocalIpsWithMdns',
  '--remote-debugging-port=0',
]

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

export async function launch(program) {
  const profile = at('target/bench/profile')
  const forget = () => rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
  forget()
  const child = start(program, [...FLAGS, `--user-data-dir=${profile}`, 'about:blank'], {
    stdio: 'ignore',
  })
  const end = async () => {
    await stop(child)
    forget()
  }
  try {
    const socket = new WebSocket(await endpoint(profile), { perMessageDeflate: false })
    await new Promise((resolve, reject) => {
      socket.once('open', resolve)
      socket.once('error', reject)
    })
    return new Browser(socket, end)
  } catch (error) {
    await end()
    throw error
  }
}

/** Chromium writes down where it listens. */
async function endpoint(profile) {
  for (let waited = 0; waited < LIMIT_MS; waited += 50) {
    try {
      const [port, path] = readFileSync(join(profile, 'DevToolsActivePort'), 'utf8').split('\n')
      if (path) return `ws://127.0.0.1:${port}${path}`
    } catch {
      // Not yet.
    }
    await wait(50)
  }
  throw new Error(`Chromium is not ready after ${LIMIT_MS} ms`)
}

class Browser {
  #socket
  #end
  #id = 0
  #waiting = new Map()

  constructor(socket, end) {
    this.#socket = socket
    this.#end = end
    socket.on('message', (text) => {
      const { id, result, error } = JSON.parse(text)
      const waiting = this.#waiting.get(id)
      this.#waiting.delete(id)
      if (error) waiting?.reject(new Error(error.message))
      else waiting?.resolve(result)
    })
  }

  send(method, params = {}, sessionId) {
    const id = ++this.#id
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#socket.send(JSON.stringify({ id, method, params, sessionId }))
    })
  }

  /** A loaded page, in a context and so in a process of its own. */
  async open(url) {
    const { browserContextId } = await this.send('Target.createBrowserContext')
    const { targetId } = await this.send('Target.createTarget', { url, browserContextId })
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true })
    const tab = new Tab(this, { browserContextId, targetId, sessionId })
    // Between two documents there is nothing to evaluate in.
    const isReady = () => tab.evaluate(() => globalThis.isReady).catch(() => false)
    for (let waited = 0; !(await isReady()); waited += 20) {
      if (waited > LIMIT_MS) throw new Error(`${url} is not loaded after ${LIMIT_MS} ms`)
      await wait(20)
    }
    return tab
  }

  async version() {
    return (await this.send('Browser.getVersion')).product
  }

  /** By process id: what kind it is, and the seconds of processor time it has had. */
  async processes() {
    return (await this.send('SystemInfo.getProcessInfo')).processInfo
  }

  async close() {
    this.#socket.terminate()
    await this.#end()
  }
}

class Tab {
  #browser
  #ids

  constructor(browser, ids) {
    this.#browser = browser
    this.#ids = ids
  }

  /** Calls the function in the page, with an argument that is JSON, and gives what it resolves to. */
  async evaluate(work, argument) {
    const { result, exceptionDetails } = await this.#browser.send(
      'Runtime.evaluate',
      {
        expression: `(${work})(${JSON.stringify(argument)})`,
        awaitPromise: true,
        returnByValue: true,
      },
      this.#ids.sessionId,
    )
    if (!exceptionDetails) return result.value
    throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text)
  }

  /** Closes the tab as its user does. */
  async close() {
    await this.#browser.send('Target.closeTarget', { targetId: this.#ids.targetId })
  }

  /** Ends the tab's process, which has no time for a farewell. */
  async crash() {
    await this.#browser.send('Page.crash', {}, this.#ids.sessionId)
  }

  /** Closes the tab, if it is still there, and forgets what its context kept. */
  async dispose() {
    const { browserContextId } = this.#ids
    await this.#browser.send('Target.disposeBrowserContext', { browserContextId })
  }
}
