// `npm run bench`: this library beside what people would use instead, in one browser, in one run.
// Prints tables and writes bench/results.json; README.md says what is measured and how.
//
//   npm run bench                      everything
//   npm run bench -- --quick           the same with few samples, to see whether it works
//   npm run bench -- sides levers      only these parts; --help names them
//   npm run bench -- --no-build        with what is built already
//
// 1. set-up and builds, as `npm start` does them, but a release build of the relay, and a second module
//    for its lever; the packages of bench/package.json; the Side of each peer bundled into target/bench
// 2. the rest in a network namespace of its own: WebRTC finds no way between two tabs on the loopback
//    alone, and a benchmark has no business anywhere else. With the processes in it, it is gone.
// 3. servers, relay and browser; the parts in measures.mjs; the tables in report.mjs

import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, totalmem } from 'node:os'
import { basename, relative } from 'node:path'
import { build } from '../tools/build.mjs'
import {
  PLAIN_DIR,
  RELEASE_PROGRAM,
  Stop,
  at,
  chromium,
  dim,
  freePort,
  main,
  root,
  run,
  start,
  startService,
  step,
  stop,
  stopAll,
  which,
} from '../tools/lib.mjs'
import { setup } from '../tools/setup.mjs'
import { Bench } from './measures.mjs'
import { line, report } from './report.mjs'

const PARTS = ['sides', 'gone', 'boundary', 'levers', 'fanout', 'growth', 'agreement']
/** crates/cli/examples/peer.rs. Of the crate of the relay, so that nothing is compiled twice. */
const PEER = at('target/release/examples/peer')
const RESULTS = at('bench/results.json')
const USAGE = `usage: npm run bench -- [--quick] [--no-build] [${PARTS.join(' | ')}]...`
/** The whole of it, in case something hangs in spite of all limits. */
const LIMIT_MS = 35 * 60_000

const LEVERS = {
  cipher: { tuning: { cipher: false } },
  acks: { tuning: { acks: 0 } },
  batching: { tuning: { batching: false } },
  early: { tuning: { early: false } },
  warm: { tuning: { warm: false } },
  simd: { worker: `/${relative(root, PLAIN_DIR)}/worker.js` },
}

async function compile(parts) {
  await step('set-up', () => setup())
  await build({ steps: ['wasm', 'opt', 'bundle'] })
  await build({ profile: 'release', steps: ['native'] })
  if (parts.includes('levers')) await build({ profile: 'plain' })
  if (parts.includes('growth') || parts.includes('agreement')) {
    const peer = ['build', '--release', '-p', 'iroh-rooms-cli', '--example', basename(PEER)]
    await step('native peer', (note) => run('cargo', peer, { onLine: note }))
  }
}

async function prepare() {
  await step('packages to compare with', packages)
  await step('sides', bundleSides)
}

async function packages(note) {
  const { dependencies } = JSON.parse(readFileSync(at('bench/package.json'), 'utf8'))
  const isThere = ([name, version]) => {
    const path = at('bench/node_modules', name, 'package.json')
    return existsSync(path) && JSON.parse(readFileSync(path, 'utf8')).version === version
  }
  if (Object.entries(dependencies).every(isThere)) return false
  const options = { cwd: at('bench'), onLine: note, limitMs: 5 * 60_000 }
  await run('npm', ['install', '--no-audit', '--no-fund'], options)
}

async function bundleSides() {
  // Not before the set-up: it may have to bring this.
  const { rolldown } = await import('rolldown')
  for (const file of readdirSync(at('bench/peers'))) {
    const bundle = await rolldown({
      input: at('bench/peers', file),
      external: [/dist\/index\.js$/],
      platform: 'browser',
      logLevel: 'silent',
    })
    await bundle.write({ file: at('target/bench', file) })
    await bundle.close()
  }
}

// ---------------------------------------------------------------------------------------------

/** How to get a network namespace here: as root, or as a user who may have one; or not at all. */
async function namespace() {
  if (!which('unshare') || !which('ip')) {
    return {
      why: 'needs the programs unshare and ip (Debian: apt-get install util-linux iproute2)',
    }
  }
  for (const unshare of [['--net'], ['--net', '--map-root-user']]) {
    const { code } = await run('unshare', [...unshare, 'ip', 'link', 'show'], { check: false })
    if (code === 0) return { unshare }
  }
  return { why: 'may not make a network namespace here: needs root, or namespaces for users' }
}

/** A way out that leads nowhere: without a default route, WebRTC sees no network at all. */
async function wire() {
  for (const line of [
    'link set lo up',
    'link add eth0 type veth peer name eth1',
    'address add 192.0.2.1/24 dev eth0',
    'link set eth0 up',
    'link set eth1 up',
    'route add default dev eth0',
  ])
    await run('ip', line.split(' '))
}

async function enter(args) {
  const { unshare, why } = await namespace()
  const program = [process.execPath, import.meta.filename, '--inside', ...args]
  const [command, ...rest] = unshare
    ? ['unshare', ...unshare, ...program]
    : [...program, `--no-webrtc=${why}`]
  const child = start(command, rest)
  const timer = setTimeout(() => {
    console.error(`not done after ${LIMIT_MS / 60_000} minutes: ended`)
    void stop(child)
  }, LIMIT_MS)
  const { code } = await child.ended
  clearTimeout(timer)
  if (code !== 0) throw new Stop(`The benchmark ended with ${code}.`)
}

// ---------------------------------------------------------------------------------------------

/** The server that y-webrtc brings along. */
async function signalling() {
  const port = await freePort()
  await startService(process.execPath, [at('bench/node_modules/y-webrtc/bin/server.js')], {
    env: { PORT: String(port) },
    pick: (line) => (line.includes('running') ? line : undefined),
  })
  return `ws://localhost:${port}`
}

async function inside({ parts, quick, noWebRtc }) {
  if (!noWebRtc) await wire()
  const load = loadavg()[0]
  const servers = (await startService(process.execPath, [at('bench/servers.mjs')])).ready
  const relay = await startService(RELEASE_PROGRAM, ['relay', '--bind', '127.0.0.1:0', '--json'])
  const yjs = !noWebRtc && parts.includes('growth') ? await signalling() : undefined
  const { launch } = await import('./browser.mjs')
  const browser = await launch(chromium())
  try {
    const bench = new Bench({
      browser,
      site: servers.site,
      sides: {
        rooms: relay.ready.url,
        websocket: servers.websocket,
        ...(noWebRtc
          ? {}
          : { rtc: servers.websocket, peerjs: servers.peerjs, trystero: servers.nostr }),
      },
      meeting: {
        rooms: relay.ready.url,
        native: relay.ready.url,
        ...(yjs ? { ywebrtc: yjs, trystero: servers.nostr } : {}),
      },
      peer: PEER,
      levers: LEVERS,
      quick,
      note: (text) => console.log(dim(`    ${text}`)),
      tell: (table, samples) => console.log(dim(`      ${line(table, samples)}`)),
    })
    const found = {}
    for (const part of parts) {
      console.log(dim(`  ${part}`))
      found[part] = await bench[`${part}Part`]()
    }
    const machine = {
      processor: cpus()[0].model,
      cores: cpus().length,
      memoryGiB: Math.round(totalmem() / 2 ** 30),
      node: process.version,
      browser: await browser.version(),
      loadBefore: load,
    }
    const date = new Date().toISOString().slice(0, 10)
    const { failures } = bench
    const results = { date, quick, machine, ...report(found, { noWebRtc, failures }) }
    writeFileSync(RESULTS, `${JSON.stringify(results, null, 2)}\n`)
    console.log(dim(`  ${basename(RESULTS)} has the same as JSON`))
  } finally {
    await browser.close()
    await stopAll()
  }
}

await main(import.meta, async (args) => {
  if (args.includes('--help')) return console.log(USAGE)
  const flag = (name) => args.find((arg) => arg === name || arg.startsWith(`${name}=`))
  const named = args.filter((arg) => !arg.startsWith('--'))
  const known = new Set(['--quick', '--no-build', '--inside', '--no-webrtc'])
  const wrong = (arg) => arg.startsWith('--') && !known.has(arg.split('=')[0])
  if (args.some(wrong) || named.some((part) => !PARTS.includes(part))) throw new Stop(USAGE)
  const parts = named.length > 0 ? named : PARTS
  const quick = flag('--quick') !== undefined
  if (flag('--inside')) {
    return inside({ parts, quick, noWebRtc: flag('--no-webrtc')?.split('=')[1] })
  }
  if (!flag('--no-build')) await compile(parts)
  await prepare()
  await enter(args)
})
