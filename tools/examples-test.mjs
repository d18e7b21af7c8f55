// Tests the examples as a reader would: builds them, runs them, and talks to them.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium as playwright } from 'playwright-core'
import { build, preview } from 'vite'
import { PROGRAM, Stop, at, chromium, main, run, runTests, startService, stop } from './lib.mjs'

const PATIENCE_MS = 20_000

await main(import.meta, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'iroh-rooms-examples-'))
  const services = []
  const service = async (...args) => {
    const started = await startService(...args)
    services.push(started)
    return started
  }
  const relay = await service(PROGRAM, ['relay', '--bind', '127.0.0.1:0', '--json'])
  const { stdout } = await run(PROGRAM, ['ticket', 'new', '--relay', relay.ready.url, '--json'])
  const invited = (line) => /^join with (\S+)/.exec(line)?.[1]
  let ticket = JSON.parse(stdout).ticket

  const tests = [
    [
      'node-bot passes its own tests',
      () => run(process.execPath, ['--test'], { cwd: at('examples/node-bot'), limitMs: 60_000 }),
    ],
    [
      'node-bot opens a room',
      async () => {
        const bot = await service(process.execPath, [at('examples/node-bot/bot.js'), ticket], {
          pick: invited,
        })
        ticket = bot.ready
      },
    ],
    [
      'node-bot repeats what is said',
      async () => {
        const peer = await service(PROGRAM, ['join', ticket, '--name', 'Tester', '--json'], {
          input: true,
        })
        await heard(peer, /Hello, Tester! I repeat what you say\./)
        peer.child.stdin.write('one two three\n')
        await heard(peer, /one two three/)
        await stop(peer.child)
      },
    ],
    [
      'quickstart in Node',
      async () => {
        const node = await service(process.execPath, [at('examples/quickstart/node.js'), ticket], {
          pick: invited,
        })
        await heard(node, /Echo: Hello, node!/)
        await stop(node.child, 'SIGINT')
      },
    ],
    [
      'quickstart in a browser',
      () =>
        withPage('quickstart', folder, async (tab, url) => {
          await tab.goto(`${url}#room=${ticket}`)
          await shows(tab, 'Echo is here')
          await tab.locator('input').fill('Echo, are you there?')
          await tab.locator('input').press('Enter')
          await shows(tab, 'Echo: Echo, are you there?')
        }),
    ],
    [
      'the demo opens its room',
      () =>
        withPage('room', folder, async (tab, url) => {
          await tab.goto(`${url}#room=${ticket}`)
          await shows(tab, 'Echo')
        }),
    ],
  ]
  // Without the bot nobody is there to talk to.
  await runTests(tests, async () => {
    await Promise.all(services.map(({ child }) => stop(child)))
    rmSync(folder, { recursive: true, force: true })
  })
})

async function heard({ said }, pattern) {
  const until = Date.now() + PATIENCE_MS
  while (!pattern.test(said())) {
    if (Date.now() > until) throw new Stop(`not heard: ${pattern}\n${said()}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function shows(tab, text) {
  const found = (wanted) => document.body.innerText.includes(wanted)
  await tab.waitForFunction(found, text, { timeout: PATIENCE_MS }).catch(async () => {
    throw new Stop(`the page does not show "${text}":\n${await tab.locator('body').innerText()}`)
  })
}

/** Builds an example with its own settings, serves what came out, and opens a tab. */
async function withPage(name, folder, work) {
  const common = { root: at('examples', name), logLevel: 'warn' }
  const outDir = join(folder, name)
  await build({ ...common, build: { outDir, emptyOutDir: true } })
  const server = await preview({
    ...common,
    build: { outDir },
    preview: { host: '127.0.0.1', port: 0 },
  })
  const browser = await playwright.launch({
    executablePath: chromium(),
    args: ['--no-sandbox', '--disable-background-networking'],
  })
  try {
    await work(await browser.newPage(), server.resolvedUrls.local[0])
  } finally {
    await browser.close()
    await server.close()
  }
}
