/**
 * A room with a doorman, end to end on real components: tabs in contexts of their own, Node processes
 * and the native program. The doorman is killed again and again; each time somebody new comes in by the id alone.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import {
  type Program,
  serveFolder,
  startChromium,
  startProgram,
  startRelay,
} from '../support/processes.js'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
/** A dead voter is noticed, another one elected, its door found: with room for a busy machine. */
const PATIENCE = { timeout: 60_000, interval: 100 }
const ROUNDS = 3

/** What a participant last said about the room. */
interface Now {
  readonly list: readonly string[]
  readonly status: string
  readonly isDoorman: boolean
  readonly voters: number
  readonly participants: readonly string[]
}

interface Participant {
  readonly name: string
  readonly id: string
  now(): Promise<Now | undefined>
  /** Whether a change was acknowledged. */
  add(item: string): Promise<boolean>
  kill(): Promise<void>
}

describe('a room whose doorman is killed', () => {
  const alive: Participant[] = []
  const stops: (() => Promise<void>)[] = []
  const acknowledged: string[] = []
  let relay: Program & { readonly url: string }
  let site: string
  let browser: Browser
  let room: string

  beforeAll(async () => {
    relay = await startRelay()
    stops.push(() => relay.stop())
    const served = await serveFolder(ROOT)
    stops.push(() => served.stop())
    site = served.url
    browser = await startChromium()
    stops.push(() => browser.close())
    const founder = await inNode(relay.url, 'node 1')
    alive.push(founder)
    room = founder.id
    alive.push(await inTab(browser, site, relay.url, 'tab 1', room))
    alive.push(await inTab(browser, site, relay.url, 'tab 2', room))
    alive.push(await inNode(relay.url, 'node 2', room))
  }, 90_000)

  afterAll(async () => {
    for (const one of alive) await one.kill()
    for (const stop of stops.reverse()) await stop()
  }, 30_000)

  /** Everybody acknowledges one change of each, and all come to the same list. */
  async function allAgree(round: string): Promise<void> {
    for (const one of alive) {
      const item = `${round}: ${one.name}`
      expect(await one.add(item), item).toBe(true)
      acknowledged.push(item)
    }
    for (const one of alive) {
      await expect
        .poll(async () => (await one.now())?.list, { ...PATIENCE, message: one.name })
        .toEqual(acknowledged)
    }
  }

  /** So many vote that one of them may be lost. */
  async function voters(count: number): Promise<void> {
    for (const one of alive) {
      await expect
        .poll(async () => (await one.now())?.voters, { ...PATIENCE, message: one.name })
        .toBeGreaterThanOrEqual(count)
    }
  }

  async function doorman(): Promise<Participant> {
    let found: Participant | undefined
    await expect
      .poll(async () => {
        for (const one of alive) {
          const now = await one.now()
          if (now?.isDoorman && now.status !== 'read-only') found = one
        }
        return found !== undefined
      }, PATIENCE)
      .toBe(true)
    return found as Participant
  }

  it('has all in it, who agree', { timeout: 120_000 }, async () => {
    await voters(3)
    await allAgree('start')
  })

  it('is read and changed from a terminal', { timeout: 120_000 }, async () => {
    const args = ['state', room, '--relay', relay.url]
    await using reader = startProgram([...args, '--name', 'reader'])
    const { state } = await reader.line(({ type }) => type === 'state')
    expect(state).toEqual({ list: acknowledged })
    acknowledged.push('from a terminal')
    await using writer = startProgram([
      ...args,
      '--name',
      'writer',
      '--set',
      JSON.stringify({ list: acknowledged }),
    ])
    await once(writer.process, 'exit')
    expect(writer.process.exitCode).toBe(0)
    for (const one of alive) {
      await expect
        .poll(async () => (await one.now())?.list, { ...PATIENCE, message: one.name })
        .toEqual(acknowledged)
    }
  })

  for (let round = 1; round <= ROUNDS; round += 1) {
    it(
      `goes on, round ${round}: nothing is lost, and a newcomer gets in`,
      { timeout: 240_000 },
      async () => {
        const gone = await doorman()
        alive.splice(alive.indexOf(gone), 1)
        await gone.kill()
        await expect.poll(async () => (await doorman()).name !== gone.name, PATIENCE).toBe(true)
        const name = `newcomer ${round}`
        alive.push(await inNode(relay.url, name, room))
        await allAgree(name)
        for (const one of alive) {
          await expect
            .poll(async () => (await one.now())?.participants, { ...PATIENCE, message: one.name })
            .toEqual(alive.map((each) => each.name).toSorted())
        }
        await voters(3)
      },
    )
  }
})

/** A process of its own. */
async function inNode(relay: string, name: string, id?: string): Promise<Participant> {
  const script = fileURLToPath(new URL('./state-peer.js', import.meta.url))
  const args = [script, relay, name, ...(id === undefined ? [] : [id])]
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  const outcomes = new Map<string, (made: boolean) => void>()
  let now: Now | undefined
  const ready = new Promise<string>((resolve, reject) => {
    void (async () => {
      for await (const text of createInterface({ input: child.stdout })) {
        const line = JSON.parse(text) as { type: string; id: string; item: string }
        if (line.type === 'ready') resolve(line.id)
        else if (line.type === 'now') now = line as unknown as Now
        else if (line.type !== 'again') outcomes.get(line.item)?.(line.type === 'added')
      }
      reject(new Error(`${name} ended with ${child.exitCode ?? child.signalCode}`))
    })()
  })
  return {
    name,
    id: await ready,
    now: async () => now,
    add: (item) =>
      new Promise((resolve) => {
        outcomes.set(item, resolve)
        child.stdin.write(`${item}\n`)
      }),
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

declare const start: (options: object) => Promise<void>
declare const lines: ({ type: string } & Now)[]
declare const peer: { add(item: string): Promise<boolean>; room: { id: string } }

async function inTab(
  browser: Browser,
  site: string,
  relay: string,
  name: string,
  id: string,
): Promise<Participant> {
  const context = await browser.newContext()
  const page: Page = await context.newPage()
  page.on('pageerror', (error) => console.error(`${name}:`, error))
  await page.goto(`${site}ts/test/e2e/state.html`)
  await page.waitForFunction(() => 'start' in globalThis)
  await page.evaluate((options) => start(options), { relay, name, id })
  return {
    name,
    id,
    now: () => page.evaluate(() => lines.findLast(({ type }) => type === 'now')),
    add: (item) => page.evaluate((what) => peer.add(what), item),
    // What was in the page is gone at once, without a goodbye: its Worker is not asked.
    kill: async () => {
      const session = await context.newCDPSession(page)
      const crashed = new Promise((resolve) => page.once('crash', resolve))
      session.send('Page.crash').catch(() => undefined)
      await crashed
      await context.close()
    },
  }
}
