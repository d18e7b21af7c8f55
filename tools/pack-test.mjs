// Tests the package as shipped: packed, installed into an empty project, and used there the way a
// stranger would. Nothing of this clone is in reach but the tools that a stranger has as well
// (TypeScript, Vite, a browser) and a relay.

import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { rolldown } from 'rolldown'
import { build, preview } from 'vite'
import { chromium as playwright } from 'playwright-core'
import {
  PROGRAM,
  Stop,
  at,
  chromium,
  main,
  run,
  runTests,
  serveFolder,
  startService,
  stop,
} from './lib.mjs'

/** All that may be in the package, apart from declarations. */
const FILES = [
  /^(package\.json|README\.md|CHANGELOG\.md|LICENSE-MIT|LICENSE-APACHE)$/,
  /^dist\/(index|node|worker|worker-node|inline|inline-node|testing)\.js(\.map)?$/,
  /^dist\/(core_bg\.wasm|inline-core\.js)$/,
  /^dist\/types\/(src|worker|testing)\/.*\.d\.ts(\.map)?$/,
]

const VALUES = ['Broadcast', 'Live', 'Room', 'RoomTicket', 'RoomsError']

/** What every consumer here does: nothing at import, then a Worker, an identity, and an orderly end. */
const consumer = (relay, entry = 'iroh-rooms') => `
import { Live, RoomTicket } from '${entry}'
const ticket = RoomTicket.parse(RoomTicket.generate().toString())
const live = await Live.spawn({ relay: ${JSON.stringify(relay)}, identity: 'memory' })
const id = live.endpointId
await live.close()
`

/** What a test of an application does: two peers in one process, and no relay. */
const tester = `
import { Live, Room, RoomTicket } from 'iroh-rooms'
import { TestNetwork } from 'iroh-rooms/testing'
const net = new TestNetwork({ delayMs: 10 })
const lives = [await net.spawn(), await net.spawn()]
const alice = await Room.open(lives[0]!, RoomTicket.generate(), { displayName: 'Alice' })
const bob = await Room.open(lives[1]!, await alice.ticket(), { displayName: 'Bob' })
await net.advance(1_000)
const seen = bob.peers.get(alice.self.id)?.displayName
await net.close()
`

async function packs(folder) {
  const { stdout } = await run(
    'npm',
    ['pack', '--json', '--ignore-scripts', '--pack-destination', folder],
    { limitMs: 60_000 },
  )
  const said = JSON.parse(stdout)
  const [packed] = Array.isArray(said) ? said : Object.values(said)
  const paths = packed.files.map(({ path }) => path)
  const strange = paths.filter((path) => !FILES.some((pattern) => pattern.test(path)))
  if (strange.length > 0)
    throw new Stop(`not meant to be in the package:\n  ${strange.join('\n  ')}`)
  const wanted = [
    'README.md',
    'LICENSE-MIT',
    'LICENSE-APACHE',
    'dist/index.js',
    'dist/worker.js',
    'dist/core_bg.wasm',
    'dist/types/src/index.d.ts',
    'dist/inline.js',
    'dist/inline-core.js',
    'dist/testing.js',
    'dist/types/testing/index.d.ts',
  ]
  const missing = wanted.filter((path) => !paths.includes(path))
  if (missing.length > 0) throw new Stop(`missing from the package:\n  ${missing.join('\n  ')}`)
  for (const name of ['index.js', 'worker.js', 'inline.js']) {
    const bare = [
      ...readFileSync(at('dist', name), 'utf8').matchAll(
        /(?:\bfrom|\bimport)\s*\(?["']([^"'./#][^"']*)["']/g,
      ),
    ].map((match) => match[1])
    if (bare.length > 0)
      throw new Stop(`dist/${name} is not self-contained: it imports ${bare.join(', ')}`)
  }
}

async function installs(folder) {
  const archive = readdirSync(folder).find((name) => name.endsWith('.tgz'))
  writeFileSync(
    join(folder, 'package.json'),
    JSON.stringify({ name: 'stranger', private: true, type: 'module' }),
  )
  await run('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', `./${archive}`], {
    cwd: folder,
    limitMs: 2 * 60_000,
  })
}

/** In a module of the strictest kind, without skipLibCheck: no declaration may need what is not shipped. */
async function types(folder) {
  writeFileSync(
    join(folder, 'stranger.ts'),
    `${consumer('http://localhost')}\nexport const text: string = id + ticket.toString()\n`,
  )
  writeFileSync(
    join(folder, 'tester.ts'),
    `${tester}\nexport const name: string | undefined = seen\n`,
  )
  writeFileSync(
    join(folder, 'inline.ts'),
    `${consumer('http://localhost', 'iroh-rooms/inline')}\nexport const text: string = id + ticket\n`,
  )
  const options = {
    compilerOptions: {
      strict: true,
      exactOptionalPropertyTypes: true,
      noEmit: true,
      target: 'es2022',
      lib: ['es2024', 'esnext.disposable', 'dom', 'dom.iterable', 'dom.asynciterable'],
      module: 'nodenext',
      types: [],
    },
    files: ['stranger.ts', 'tester.ts', 'inline.ts'],
  }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(options))
  await run(at('node_modules/.bin/tsc'), ['-p', folder], { cwd: folder, limitMs: 60_000 })
}

async function inNode(folder, url) {
  const check = `
import * as api from 'iroh-rooms'
const missing = ${JSON.stringify(VALUES)}.filter((name) => typeof api[name] !== 'function')
if (missing.length > 0) throw new Error('not exported: ' + missing.join(', '))
${consumer(url)}
console.log('id', id)
`
  await prints(folder, 'node.mjs', check, /^id [0-9a-z]{64}$/m)
}

async function inlineInNode(folder, url) {
  const program = `${consumer(url, 'iroh-rooms/inline')}\nconsole.log('id', id)\n`
  await prints(folder, 'inline.mjs', program, /^id [0-9a-z]{64}$/m)
}

async function testing(folder) {
  const program = `${tester.replaceAll(/\]!/g, ']')}
console.log('seen', seen, lives[0] instanceof Live)
`
  await prints(folder, 'tester.mjs', program, /^seen Alice true$/m)
}

/** It ends by itself, or the limit says so. */
async function prints(folder, name, program, pattern) {
  writeFileSync(join(folder, name), program)
  const { stdout } = await run(process.execPath, [name], { cwd: folder, limitMs: 30_000 })
  if (!pattern.test(stdout)) throw new Stop(`${name} did not print ${pattern}:\n${stdout}`)
}

const page = (script) => `<!doctype html><meta charset="utf-8"><title>stranger</title>${script}`
const application = (url) => `${consumer(url)}\ndocument.title = 'id ' + id\n`

/** Served as it lies in node_modules, the way a CDN would. */
async function unbundled(folder, url, browser) {
  const site = join(folder, 'plain')
  mkdirSync(site, { recursive: true })
  const map = JSON.stringify({
    imports: { 'iroh-rooms': '/node_modules/iroh-rooms/dist/index.js' },
  })
  writeFileSync(
    join(site, 'index.html'),
    page(
      `<script type="importmap">${map}</script><script type="module">${application(url)}</script>`,
    ),
  )
  const server = await serveFolder(folder)
  try {
    await visit(browser, `${server.url}/plain/index.html`)
  } finally {
    server.close()
  }
}

async function bundled(folder, url, browser) {
  writeFileSync(join(folder, 'index.html'), page('<script type="module" src="./app.js"></script>'))
  writeFileSync(join(folder, 'app.js'), application(url))
  const common = { root: folder, configFile: false, logLevel: 'warn' }
  await build({ ...common, build: { target: 'es2022' } })
  const modules = readdirSync(join(folder, 'dist/assets')).filter((name) => name.endsWith('.wasm'))
  if (modules.length !== 1)
    throw new Stop(
      `the built app has ${modules.length} modules, one is meant: ${modules.join(', ')}`,
    )
  const server = await preview({ ...common, preview: { host: '127.0.0.1', port: 0 } })
  try {
    await visit(browser, server.resolvedUrls.local[0])
  } finally {
    await server.close()
  }
}

/** One file of HTML: nothing is loaded besides. */
async function inlineInPage(folder, url, browser) {
  const site = join(folder, 'single')
  mkdirSync(site, { recursive: true })
  const program = `${consumer(url, 'iroh-rooms/inline')}\ndocument.title = 'id ' + id\n`
  writeFileSync(join(site, 'app.js'), program)
  const bundle = await rolldown({ input: join(site, 'app.js'), platform: 'browser' })
  const { output } = await bundle.generate({ format: 'es', codeSplitting: false })
  await bundle.close()
  const code = output[0].code.replaceAll('</script', '<\\/script')
  writeFileSync(join(site, 'index.html'), page(`<script type="module">${code}</script>`))
  rmSync(join(site, 'app.js'))
  const server = await serveFolder(site)
  try {
    await visit(browser, `${server.url}/index.html`)
  } finally {
    server.close()
  }
}

async function withBrowser(work) {
  const browser = await playwright.launch({
    executablePath: chromium(),
    args: ['--no-sandbox', '--disable-background-networking'],
  })
  try {
    await work(browser)
  } finally {
    await browser.close()
  }
}

/** Opens the page and waits until it has put an endpoint id into its title. */
async function visit(browser, address) {
  const tab = await browser.newPage()
  const said = []
  tab.on('console', (message) => said.push(message.text()))
  tab.on('pageerror', (error) => said.push(String(error)))
  tab.on('requestfailed', (request) => said.push(`failed: ${request.url()}`))
  tab.on(
    'response',
    (response) => response.status() >= 400 && said.push(`${response.status()}: ${response.url()}`),
  )
  await tab.goto(address)
  await tab
    .waitForFunction(() => document.title.startsWith('id '), undefined, { timeout: 30_000 })
    .catch(() => {
      throw new Stop(
        `the page did not get an endpoint id within 30 s. It said:\n  ${said.join('\n  ') || 'nothing'}`,
      )
    })
}

await main(import.meta, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'iroh-rooms-pack-'))
  const relay = await startService(PROGRAM, ['relay', '--bind', '127.0.0.1:0', '--json'])
  const url = relay.ready.url
  const tests = [
    ['packs what is intended', () => packs(folder)],
    ['installs into an empty project', () => installs(folder)],
    ['types stand on their own', () => types(folder)],
    ['Node imports and runs it', () => inNode(folder, url)],
    ['Node runs it from one file', () => inlineInNode(folder, url)],
    ['an application tests itself in memory', () => testing(folder)],
    [
      'a page without a bundler runs it',
      () => withBrowser((browser) => unbundled(folder, url, browser)),
    ],
    [
      'a page of one file runs it',
      () => withBrowser((browser) => inlineInPage(folder, url, browser)),
    ],
    [
      'Vite builds an app that runs it',
      () => withBrowser((browser) => bundled(folder, url, browser)),
    ],
  ]
  const cleanUp = async () => {
    await stop(relay.child)
    rmSync(folder, { recursive: true, force: true })
  }
  // Without a package there is nothing to test.
  await runTests(tests, cleanUp, 2)
})
