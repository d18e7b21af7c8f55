// Tests the examples as a reader would: builds them, runs them, and talks to them.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { chromium as playwright } from 'playwright-core'
import { build, preview } from 'vite'
import { PROGRAM, Stop, at, chromium, main, run, runTests, startService, stop } from './lib.mjs'

const PATIENCE_MS = 20_000
/** One of a pair goes on by itself half a minute after the other has vanished without a word. */
const TAKEOVER_MS = 60_000

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
    [
      'the game: a guest is let in, plays, and goes on when the host has gone',
      () => withPage('game', folder, playGame, relay.ready.url),
    ],
  ]
  // Without the bot nobody is there to talk to.
  await runTests(tests, async () => {
    await Promise.all(services.map(({ child }) => stop(child)))
    rmSync(folder, { recursive: true, force: true })
  })
})

/** Two people play; who founded the game closes the tab in the middle of it, and a third comes in. */
async function playGame(host, url, browser, relayUrl) {
  const at = `${url}?relay=${encodeURIComponent(relayUrl)}`
  const id = (name) => `[data-testid=${name}]`
  const enter = async (tab, address, name) => {
    await tab.goto(address)
    await tab.locator(id('name-input')).fill(name)
    await tab.locator(id('enter')).click()
  }
  const drop = async (tab, column) => {
    const button = tab.locator(id('column')).nth(column)
    await tab.waitForFunction(
      (at) => document.querySelectorAll('.column')[at].ariaDisabled === 'false',
      column,
      { timeout: PATIENCE_MS },
    )
    await button.click()
  }
  // A context for each: tabs of one would share what is kept.
  const tabOf = async () => (await browser.newContext()).newPage()

  await enter(host, at, 'Ada')
  await host.waitForFunction(() => location.hash.startsWith('#game='), undefined, {
    timeout: PATIENCE_MS,
  })
  const link = await host.evaluate(() => location.href)
  await host.locator(`${id('chair-red')} button`).click()

  const guest = await tabOf()
  await enter(guest, link, 'Bob')
  await host.locator(id('let-in')).click({ timeout: PATIENCE_MS })
  await guest.locator(`${id('chair-pine')} button`).click({ timeout: PATIENCE_MS })
  await drop(host, 3)
  await drop(guest, 3)
  await shows(host, 'It is your turn')

  await shows(guest, 'All agree')
  await host.close()
  // At once if the goodbye got out, else when the silence is certain.
  await guest.waitForFunction(
    () => document.querySelector('.person.is-doorman')?.textContent?.includes('Bob'),
    undefined,
    { timeout: TAKEOVER_MS },
  )
  const third = await tabOf()
  await enter(third, link, 'Cleo')
  await guest.locator(id('let-in')).click({ timeout: PATIENCE_MS })
  await third.waitForFunction(
    () => document.querySelectorAll('.place:not([data-side=""])').length === 2,
    undefined,
    { timeout: PATIENCE_MS },
  )
}

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
async function withPage(name, folder, work, ...more) {
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
    await work(await browser.newPage(), server.resolvedUrls.local[0], browser, ...more)
  } finally {
    await browser.close()
    await server.close()
  }
}
