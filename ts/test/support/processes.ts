/** Programs that tests need: a relay, a browser, a page's files. Each is stopped by its own handle. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { type Server, createServer } from 'node:http'
import { type AddressInfo, type Socket, connect, createServer as createTcpServer } from 'node:net'
import { extname, join, normalize } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

import { type Browser, chromium } from 'playwright-core'

const ROOT: string = fileURLToPath(new URL('../../..', import.meta.url))
/** The native program, as `cargo build` leaves it, or another one. */
export const PROGRAM: string =
  process.env['IROH_ROOMS_PROGRAM'] ?? join(ROOT, 'target/debug/iroh-rooms')

/** Something that was started. */
export interface Started extends AsyncDisposable {
  /** Ends it, and resolves when it is gone. Idempotent. */
  stop(): Promise<void>
}

/** A program that writes one JSON object a line. */
export interface Program extends Started {
  readonly process: ChildProcess
  /** The next line for which `test` holds; what is between is dropped. Rejects at its end. */
  line(test: (line: JsonLine) => boolean): Promise<JsonLine>
  /** Writes a line to its input. */
  say(text: string): void
}

/** A line of output. */
export type JsonLine = { readonly type: string } & Readonly<Record<string, unknown>>

/** Starts the native program with `--json`. */
export function startProgram(args: readonly string[]): Program {
  const child = spawn(PROGRAM, [...args, '--json'], { stdio: ['pipe', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGTERM')
    const killer = setTimeout(() => child.kill('SIGKILL'), 5_000)
    await exited
    clearTimeout(killer)
  }
  return {
    process: child,
    async line(test): Promise<JsonLine> {
      for (;;) {
        const { done, value } = await lines.next()
        if (done) throw new Error(`iroh-rooms ${args.join(' ')} ended with code ${child.exitCode}`)
        const line = JSON.parse(value) as JsonLine
        if (test(line)) return line
      }
    },
    say: (text) => void child.stdin.write(`${text}\n`),
    stop,
    [Symbol.asyncDispose]: stop,
  }
}

/** A relay of its own on the loopback; the port is free unless given. */
export async function startRelay(port = 0): Promise<Program & { readonly url: string }> {
  const program = startProgram(['relay', '--bind', `127.0.0.1:${port}`])
  try {
    const { url } = await program.line(({ type }) => type === 'ready')
    return { ...program, url: String(url) }
  } catch (error) {
    await program.stop()
    throw error
  }
}

/** A headless Chromium, without anything that leaves the loopback. */
export async function startChromium(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
  })
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
}

/** Serves a folder's files on a free port of the loopback. */
export async function serveFolder(folder: string): Promise<Started & { readonly url: string }> {
  const server = createServer((request, response) => {
    void (async () => {
      const { pathname } = new URL(request.url ?? '/', 'http://localhost')
      const path = join(folder, normalize(decodeURIComponent(pathname)))
      const file = (await stat(path)).isDirectory() ? join(path, 'index.html') : path
      await stat(file)
      response.setHeader('content-type', TYPES[extname(file)] ?? 'application/octet-stream')
      createReadStream(file).pipe(response)
    })().catch(() => {
      response.statusCode = 404
      response.end()
    })
  })
  return listening(server)
}

/** Answers `page` with a page of HTML, as hosts of single-page applications do, the rest with 404. */
export async function startTrap(): Promise<Started & { readonly url: string }> {
  const server = createServer((request, response) => {
    response.setHeader('access-control-allow-origin', '*')
    response.setHeader('content-type', 'text/html')
    response.statusCode = request.url === '/page' ? 200 : 404
    response.end('<!doctype html><title>No module</title>')
  })
  return listening(server)
}

/** A way to a relay that can be cut for tabs, and for them alone. */
export interface Proxy extends Started {
  readonly url: string
  /**
   * `open`; `stalled`: nothing comes through, and nobody is told, as when a machine sleeps; `closed`:
   * connections are reset, and new ones too.
   */
  setTabs(way: 'open' | 'stalled' | 'closed'): void
}

/** Browsers say where a page is from. */
const FROM_TAB = /^origin:/im

export async function startProxy(relay: string): Promise<Proxy> {
  const target = Number(new URL(relay).port)
  const all = new Set<Socket>()
  const tabs = new Map<Socket, Socket>()
  let way: 'open' | 'stalled' | 'closed' = 'open'
  const apply = (socket: Socket, other: Socket): void => {
    for (const end of [socket, other]) {
      if (way === 'closed') end.resetAndDestroy()
      else if (way === 'stalled') end.pause()
      else end.resume()
    }
  }
  const server = createTcpServer((socket) => {
    const other = connect(target, '127.0.0.1')
    for (const [from, to] of [
      [socket, other],
      [other, socket],
    ] as const) {
      all.add(from)
      from.on('error', () => to.destroy())
      from.on('close', () => {
        all.delete(from)
        tabs.delete(socket)
        to.destroy()
      })
      from.on('data', (bytes) => to.write(bytes))
    }
    socket.once('data', (bytes) => {
      if (!FROM_TAB.test(bytes.toString('latin1'))) return
      tabs.set(socket, other)
      apply(socket, other)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const stop = async (): Promise<void> => {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    for (const socket of all) socket.destroy()
    await closed
  }
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    setTabs(to): void {
      way = to
      for (const [socket, other] of tabs) apply(socket, other)
    },
    stop,
    [Symbol.asyncDispose]: stop,
  }
}

async function listening(server: Server): Promise<Started & { readonly url: string }> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const stop = async (): Promise<void> => {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    server.closeAllConnections()
    await closed
  }
  return { url: `http://127.0.0.1:${port}/`, stop, [Symbol.asyncDispose]: stop }
}
