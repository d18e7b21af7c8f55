// `npm run test:interop`: our program, the package in Node and in a browser tab, together with
// moq-relay and moq-cli, programs that know nothing of rooms. Not part of `npm test`: they are built
// from source into `.tools`, which takes minutes the first time. docs/interop.md says what is shown.

import { rmSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { chromium as playwright } from 'playwright-core'
import { build } from './build.mjs'
import {
  PROGRAM,
  Stop,
  at,
  chromium,
  dim,
  firstLine,
  freePort,
  main,
  run,
  runTests,
  serveFolder,
  startService,
  step,
  stopAll,
} from './lib.mjs'
import { CARGO_CACHE, cargoInstall, setup } from './setup.mjs'

/** The programs: the crate, its version, and what it is called when installed. */
const RELAY = { crate: 'moq-relay', version: '0.17.10', program: 'moq-relay' }
const CLI = { crate: 'moq-cli', version: '0.14.10', program: 'moq' }
const folder = ({ crate, version }) => at('.tools', `${crate}-${version}`)
const path = (tool) => `${folder(tool)}/bin/${tool.program}`

const CAMERA = 'studio/camera.hang'
const CAMERA_HERE = 'studio:camera.hang'
/** Long enough for a loaded machine. */
const PATIENCE_MS = 30_000

async function install(tool, note) {
  if ((await firstLine(path(tool), '--version'))?.includes(tool.version)) return false
  // Only iroh, and the plain TCP that is always in: their other transports bring another QUIC. Not
  // --locked: their lock files name releases that were withdrawn.
  const features = ['--no-default-features', '--features', 'iroh']
  await cargoInstall([tool.crate, '--version', tool.version, ...features], folder(tool), note)
}

// ---------------------------------------------------------------------------------------------
// The programs of others.

/** `--iroh-*` and who may come: for both programs alike. */
async function open() {
  const port = await freePort()
  const tcp = await freePort()
  const flags = [
    '--iroh-enabled',
    '--iroh-disable-relay',
    '--iroh-bind-v4',
    `127.0.0.1:${port}`,
    '--listen-tcp-bind',
    `127.0.0.1:${tcp}`,
    '--auth-public',
    '**',
  ]
  return { flags, port, url: `tcp://127.0.0.1:${tcp}` }
}

const listening = {
  pick: (line) => /iroh listening.*endpoint_id=([0-9a-f]{64})/.exec(line)?.[1],
  env: { NO_COLOR: '1', RUST_LOG: 'info' },
  limitMs: PATIENCE_MS,
}

async function startMoqRelay() {
  const { flags, port, url } = await open()
  const { ready: id } = await service(path(RELAY), flags, listening)
  return { peer: `${id}@127.0.0.1:${port}`, url }
}

/** `moq import`, fed with a video that never ends. With `url` it dials; without, it listens. */
async function startImport(broadcast, url) {
  const at = url ? { flags: ['--connect', url] } : await open()
  const began = { pick: () => true, env: { NO_COLOR: '1', RUST_LOG: 'info' } }
  const args = [...at.flags, '--broadcast', broadcast, 'import', 'avc3']
  const { child, ready: id } = await service(path(CLI), args, {
    ...(url ? began : listening),
    input: true,
  })
  // A pipe that is closed because the program was ended is no surprise.
  child.stdin.on('error', () => {})
  let picture = 0
  const timer = setInterval(() => child.stdin.write(video(picture++)), 100)
  void child.ended.then(() => clearInterval(timer))
  return { peer: `${id}@127.0.0.1:${at.port}` }
}

/** Tries until the broadcast has made its way: `moq fetch` itself waits for it as well. */
async function fetchText(url, broadcast, track) {
  const args = ['--connect', url, '--broadcast', broadcast, 'fetch', track]
  say(`$ moq ${args.join(' ')}`)
  const env = { NO_COLOR: '1', RUST_LOG: 'error' }
  const { stdout } = await run(path(CLI), args, { env, limitMs: PATIENCE_MS })
  say(stdout)
  return stdout
}

/**
 * H.264 as an encoder for 64 × 64 pixels writes it: a picture that stands for itself with its
 * parameters each second, others in between. What is in the pictures is noise; nobody here looks.
 */
function video(number) {
  const unit = (header, bits) => {
    const padded = `${bits}1`.padEnd(Math.ceil((bits.length + 1) / 8) * 8, '0')
    return Buffer.from([
      0,
      0,
      0,
      1,
      ...header,
      ...padded.match(/.{8}/g).map((it) => parseInt(it, 2)),
    ])
  }
  const exp = (value) => {
    const bits = (value + 1).toString(2)
    return '0'.repeat(bits.length - 1) + bits
  }
  // Parameter set, frame numbers, order by decoding, no references, no gaps, 4 × 4 blocks of 16.
  const sequence = `${exp(0)}${exp(0)}${exp(2)}${exp(0)}0${exp(3)}${exp(3)}1100`
  const picture = `${exp(0)}${exp(0)}00${exp(0)}${exp(0)}${exp(0)}000${exp(0)}${exp(0)}${exp(0)}100`
  const noise = Array.from({ length: 200 }, (_, i) => (1 + ((i * 7 + number) % 200)).toString(2))
  const slice = (header) => unit([header], `1${noise.map((it) => it.padStart(8, '0')).join('')}`)
  if (number % 10 > 0) return slice(0x41)
  return Buffer.concat([unit([0x67, 66, 0xc0, 10], sequence), unit([0x68], picture), slice(0x65)])
}

// ---------------------------------------------------------------------------------------------
// Our own.

/** Returns a ticket that names it. */
const startBridge = async (ticket, peer, name) => {
  const args = ['bridge', ticket, '--peer', peer, '--name', name, '--json']
  const { ready, said } = await service(PROGRAM, args)
  const opened = await until(`a session of the ${name}`, () =>
    said()
      .split('\n')
      .find((line) => line.includes('"session-opened"')),
  )
  say(opened)
  return ready.ticket
}

/**
 * What a peer does, the same in Node and in the tab: publishes a text, and reads of the camera that
 * moq-cli publishes the catalog and the first pictures.
 */
async function takePart(rooms, { relay, ticket, name, camera }) {
  const live = await rooms.Live.spawn({ relay })
  const room = await rooms.Room.open(live, ticket, { displayName: name })
  const broadcast = new rooms.Broadcast()
  await room.publish('news', broadcast)
  broadcast.track('text', { maxAgeMs: 60_000 }).write(new TextEncoder().encode(`news of ${name}`))
  const read = async () => {
    let remote
    for await (const event of room.events()) {
      if (event.type === 'broadcast-subscribed' && event.name === camera) {
        remote = event.broadcast
        break
      }
    }
    let catalog
    for await (const frame of remote.track('catalog.json').frames()) {
      catalog = JSON.parse(new TextDecoder().decode(frame.data))
      if (catalog.video) break
    }
    const [[track, config]] = Object.entries(catalog.video.renditions)
    const frames = []
    for await (const frame of remote.track(track).frames()) {
      frames.push(`${frame.group}/${frame.index}: ${frame.data.length} bytes`)
      if (frames.length === 12) break
    }
    return { track, codec: config.codec, size: [config.codedWidth, config.codedHeight], frames }
  }
  return { id: live.endpointId, read, close: () => live.close() }
}

async function inNode(options) {
  const rooms = await import('../dist/node.js')
  return takePart(rooms, options)
}

async function inTab(site, browser, options) {
  const page = await browser.newPage()
  await page.goto(`${site.url}/ts/test/e2e/page.html`)
  const start = `(async (options) => {
    const takePart = ${takePart.toString()}
    globalThis.peer = await takePart(await import('/dist/index.js'), options)
    return peer.id
  })(${JSON.stringify(options)})`
  const id = await page.evaluate(start)
  return { id, read: () => page.evaluate('peer.read()'), close: () => page.close() }
}

// ---------------------------------------------------------------------------------------------

const said = []
/** What is shown at the end, for docs/interop.md. */
const say = (text) => said.push(...text.trimEnd().split('\n'))

async function service(command, args, options) {
  const name = command === PROGRAM ? 'iroh-rooms' : command.split('/').at(-1)
  say(`$ ${name} ${args.join(' ')}`)
  return startService(command, args, options)
}

async function until(what, look) {
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await sleep(50)) {
    const found = look()
    if (found) return found
  }
  throw new Stop(`${what}: not within ${PATIENCE_MS / 1000} s`)
}

function expect(what, got, wanted) {
  if (got !== wanted)
    throw new Stop(`${what}: ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`)
}

function expectCamera(who, seen) {
  say(`${who}: ${JSON.stringify(seen)}`)
  expect('the codec', seen.codec.startsWith('avc'), true)
  expect('the size', String(seen.size), '64,64')
  expect('pictures', seen.frames.length, 12)
}

await main(import.meta, async () => {
  await step('set-up', () => setup())
  await build()
  for (const tool of [RELAY, CLI])
    await step(`${tool.crate} ${tool.version}`, (note) => install(tool, note))
  rmSync(CARGO_CACHE, { recursive: true, force: true })

  const { ready: relay } = await startService(PROGRAM, ['relay', '--bind', '127.0.0.1:0', '--json'])
  const made = await run(PROGRAM, ['ticket', 'new', '--relay', relay.url])
  let ticket = made.stdout.trim()
  const site = await serveFolder(at('.'))
  const browser = await playwright.launch({
    executablePath: chromium(),
    args: ['--no-sandbox', '--disable-background-networking'],
  })
  const camera = CAMERA_HERE
  const peer = (name) => ({ relay: relay.url, ticket, name, camera })
  let moq, node, tab
  const test = (name, work) => {
    const told = () => {
      say(`\n# ${name}`)
      return work()
    }
    return [name, told]
  }
  const tests = [
    test('moq-relay takes our session over iroh', async () => {
      moq = await startMoqRelay()
      // A fresh ticket names nobody; the bridge's names the bridge.
      ticket = await startBridge(ticket, moq.peer, 'bridge')
    }),
    test('moq fetch prints what Node publishes in the room', async () => {
      node = await inNode(peer('Node'))
      expect('the text', await fetchText(moq.url, `${node.id}/news`, 'text'), 'news of Node')
    }),
    test('Node reads what moq import publishes', async () => {
      await startImport(CAMERA, moq.url)
      expectCamera('Node', await node.read())
    }),
    test('moq fetch prints what a browser tab publishes', async () => {
      tab = await inTab(site, browser, peer('Tab'))
      expect('the text', await fetchText(moq.url, `${tab.id}/news`, 'text'), 'news of Tab')
    }),
    test('a browser tab reads what moq import publishes', async () =>
      expectCamera('Tab', await tab.read())),
    test('a tab reads a moq import that listens by itself', async () => {
      const { peer: program } = await startImport('alone.hang')
      await startBridge(ticket, program, 'second bridge')
      const other = await inTab(site, browser, { ...peer('Other tab'), camera: 'alone.hang' })
      expectCamera('Other tab', await other.read())
    }),
  ]
  await runTests(tests, async () => {
    await node?.close()
    await browser.close()
    site.close()
    await stopAll()
    console.log(dim(said.join('\n')))
  })
})
