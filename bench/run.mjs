// `npm run bench`: this library and a plain WebSocket relay, in two tabs of one browser, one after the
// other in the same run. Prints a table with ratios and writes bench/results.json. Nothing leaves the
// loopback. Build first: `npm run build`.

import { once } from 'node:events'
import { createReadStream, existsSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { cpus } from 'node:os'
import { extname, join, normalize } from 'node:path'
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { chromium } from 'playwright-core'
import { WebSocketServer } from 'ws'

const ROOT = join(import.meta.dirname, '..')
const ROUNDS = 5
const PINGS = 300
const BLAST_MS = 3000
const SIZES = [1024, 65_536]
const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' }

const stops = []

async function site() {
  const server = createServer((request, response) => {
    const path = join(ROOT, normalize(new URL(request.url, 'http://x').pathname))
    if (!existsSync(path) || !statSync(path).isFile()) return response.writeHead(404).end()
    response.setHeader('content-type', TYPES[extname(path)] ?? 'application/octet-stream')
    createReadStream(path).pipe(response)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  stops.push(
    () => server.close(),
    () => server.closeAllConnections(),
  )
  return `http://127.0.0.1:${server.address().port}`
}

async function irohRelay() {
  const child = spawn(join(ROOT, 'target/debug/iroh-rooms'), [
    'relay',
    '--bind',
    '127.0.0.1:0',
    '--json',
  ])
  stops.push(() => child.kill())
  const [line] = await once(createInterface({ input: child.stdout }), 'line')
  return JSON.parse(line).url
}

async function webSocketRelay() {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false })
  await once(server, 'listening')
  stops.push(
    () => server.close(),
    () => server.clients.forEach((client) => client.terminate()),
  )
  server.on('connection', (socket) => {
    socket.on('message', (data, binary) => {
      for (const other of server.clients) if (other !== socket) other.send(data, { binary })
    })
  })
  return `ws://127.0.0.1:${server.address().port}`
}

/** Two loaded tabs, in browser contexts of their own. */
async function tabs(browser, url, kind) {
  const open = async () => {
    const page = await (await browser.newContext()).newPage()
    page.on('pageerror', (error) => console.error(`${kind}:`, error.message))
    await page.goto(`${url}/bench/page.html?kind=${kind}`)
    await page.waitForFunction(() => 'side' in globalThis)
    return page
  }
  return [await open(), await open()]
}

async function closeTabs(pages) {
  for (const page of pages) await page.evaluate(() => side.close())
  for (const page of pages) await page.context().close()
}

async function join2(browser, url, kind, relay) {
  const pages = await tabs(browser, url, kind)
  const [a, b] = pages
  const { invite, spawnMs } = await a.evaluate((relay) => side.open({ relay }), relay)
  // From the newcomer's call to the first message across.
  await a.evaluate(() => {
    side.heard = () => void side.say('answer')
  })
  const joinMs = await b.evaluate(
    async ([relay, invite]) => {
      const begun = performance.now()
      await side.open({ relay, invite })
      await side.met()
      const answered = new Promise((resolve) => (side.heard = resolve))
      await side.say('first')
      await answered
      return performance.now() - begun
    },
    [relay, invite],
  )
  return { pages, spawnMs, joinMs }
}

async function measure(browser, url, kind, relay) {
  const joins = []
  const spawns = []
  for (let n = 0; n < ROUNDS; n++) {
    const { pages, spawnMs, joinMs } = await join2(browser, url, kind, relay)
    joins.push(joinMs)
    spawns.push(spawnMs)
    await closeTabs(pages)
  }
  const { pages } = await join2(browser, url, kind, relay)
  const [a, b] = pages
  await a.evaluate(() => {
    side.heard = (text) => void side.say(text.replace('ping', 'pong'))
  })
  const trips = await b.evaluate(async (pings) => {
    const trips = []
    const pad = 'x'.repeat(190)
    for (let n = 0; n < pings; n++) {
      const begun = performance.now()
      const pong = new Promise((resolve) => {
        side.heard = (text) => text.startsWith(`pong ${n} `) && resolve()
      })
      await side.say(`ping ${n} ${pad}`)
      await pong
      trips.push(performance.now() - begun)
    }
    return trips
  }, PINGS)
  const throughput = {}
  for (const size of SIZES) {
    const sent = a.evaluate(([size, ms]) => side.blast(size, ms), [size, BLAST_MS])
    throughput[size] = await b.evaluate(
      async ([size, ms]) => {
        let bytes = 0
        let begun
        for await (const length of side.bulk(size)) {
          begun ??= performance.now()
          bytes += length
          if (performance.now() - begun > ms * 0.8) break
        }
        return bytes / (performance.now() - begun) / 1000
      },
      [size, BLAST_MS],
    )
    await sent
    await new Promise((resolve) => setTimeout(resolve, 1500))
  }
  await closeTabs(pages)
  trips.sort((x, y) => x - y)
  const at = (list, q) => list[Math.min(list.length - 1, Math.floor(list.length * q))]
  const median = (list) =>
    at(
      [...list].sort((x, y) => x - y),
      0.5,
    )
  return {
    'start, ms p50': median(spawns),
    'join to first answer, ms p50': median(joins),
    'round trip of 200 bytes, ms p50': at(trips, 0.5),
    'round trip of 200 bytes, ms p95': at(trips, 0.95),
    'round trip of 200 bytes, ms p99': at(trips, 0.99),
    'throughput of 1 KiB, MB/s': throughput[1024],
    'throughput of 64 KiB, MB/s': throughput[65_536],
  }
}

try {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
  })
  stops.push(() => browser.close())
  const url = await site()
  const ours = await measure(browser, url, 'rooms', await irohRelay())
  const plain = await measure(browser, url, 'websocket', await webSocketRelay())
  const rows = Object.keys(ours).map((name) => ({
    measure: name,
    'iroh-rooms': round(ours[name]),
    'WebSocket relay': round(plain[name]),
    ratio: round(ours[name] / plain[name]),
  }))
  console.table(rows)
  const machine = { cores: cpus().length, node: process.version, browser: browser.version() }
  writeFileSync(join(ROOT, 'bench/results.json'), `${JSON.stringify({ machine, rows }, null, 2)}\n`)
} finally {
  for (const stop of stops.reverse()) await stop()
}

function round(number) {
  return Number(number.toPrecision(3))
}
