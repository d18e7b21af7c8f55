/**
 * The main job, end to end on real components: two tabs in separate browser contexts, Node and the
 * native program in one room over a relay.
 */
import { setTimeout as sleep } from 'node:timers/promises'

import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

import {
  type Program,
  type Started,
  serveFolder,
  startChromium,
  startProgram,
  startRelay,
} from '../support/processes.js'
import {
  type Member,
  type NodeMember,
  ROOT,
  frames,
  heard,
  inTerminal,
  joined,
  left,
  startInNode,
  startInTab,
} from './members.js'

const NAMES = ['tab one', 'tab two', 'node', 'terminal'] as const
type Name = (typeof NAMES)[number]

describe('one room across two tabs, Node and a terminal', () => {
  const stops: (() => Promise<void>)[] = []
  const pages: Page[] = []
  const members = new Map<Name, Member>()
  let relay: Program & { readonly url: string }
  let node: NodeMember

  const member = (name: Name): Member => {
    const found = members.get(name)
    if (!found) throw new Error(`no ${name}`)
    return found
  }
  const others = (name: Name): Member[] => [...members.values()].filter((m) => m.name !== name)

  beforeAll(async () => {
    relay = await startRelay()
    stops.push(() => relay.stop())
    const site: Started & { readonly url: string } = await serveFolder(ROOT)
    stops.push(() => site.stop())
    const browser: Browser = await startChromium()
    stops.push(() => browser.close())

    node = await startInNode({ relay: relay.url, name: 'node' })
    stops.push(() => node.close())
    members.set('node', node)
    const ticket = await node.ticket()
    for (const name of ['tab one', 'tab two'] as const) {
      const { page, member } = await startInTab(browser, site.url, {
        relay: relay.url,
        ticket,
        name,
      })
      pages.push(page)
      members.set(name, member)
    }
    const args = [
      'join',
      ticket,
      '--name',
      'terminal',
      '--publish',
      'clock',
      '--read',
      '*/notes/text',
    ]
    const terminal = startProgram(args)
    stops.push(() => terminal.stop())
    members.set('terminal', await inTerminal(terminal, 'terminal'))
  }, 60_000)

  afterAll(async () => {
    for (const stop of stops.reverse()) await stop()
  }, 30_000)

  it('all four see each other', async () => {
    for (const one of members.values()) {
      const expected = others(one.name as Name).map(({ id }) => id)
      await expect
        .poll(async () => joined(await one.log()), { timeout: 20_000 })
        .toEqual(expected.sort())
    }
  }, 60_000)

  it('chat from each reaches all, in order, once', async () => {
    const texts = (name: string): string[] => [1, 2, 3].map((n) => `${n} from ${name}`)
    await Promise.all(
      [...members.values()].map(async (one) => {
        for (const text of texts(one.name)) await one.say(text)
      }),
    )
    await eachHears((speaker) => texts(speaker.name))
  }, 60_000)

  it('a broadcast from each is read by all', async () => {
    for (const reader of members.values()) {
      for (const writer of others(reader.name as Name)) {
        const wanted =
          writer.name === 'terminal' ? / UTC$/ : new RegExp(`^written by ${writer.name}$`)
        // The terminal reads notes alone; its own clock is for the others.
        await expect
          .poll(async () => frames(await reader.log(), writer.id).at(-1) ?? '', { timeout: 20_000 })
          .toMatch(wanted)
      }
    }
  }, 60_000)

  it('a process that is killed is gone long before its presence expires', async () => {
    // Before the relay goes away: for a while after that, silence proves nothing.
    const ticket = await node.ticket()
    const program = startProgram(['join', ticket, '--name', 'doomed'])
    stops.push(() => program.stop())
    const gone = await inTerminal(program, 'doomed')
    // Once it was heard, everyone has a session with it; before that, only its presence expires.
    await gone.say('hello')
    for (const one of members.values()) {
      await expect
        .poll(async () => heard(await one.log(), gone.id), { timeout: 20_000 })
        .toEqual(['hello'])
    }
    const begun = performance.now()
    program.process.kill('SIGKILL')
    // Presence alone would take 30 s.
    await eachSeesLeave(gone, 'timeout', 20_000)
    report('killed process noticed', begun)
  }, 60_000)

  it('a relay that is away for ten seconds loses nobody and nothing', async () => {
    const before = new Map<string, number>()
    for (const one of members.values()) before.set(one.id, (await one.log()).length)
    const port = Number(new URL(relay.url).port)
    await relay.stop()
    await sleep(1_000)
    await Promise.all([...members.values()].map((one) => one.say(`during, from ${one.name}`)))
    await sleep(9_000)
    relay = await startRelay(port)
    stops.push(() => relay.stop())
    const begun = performance.now()
    await eachHears(
      (speaker) =>
        [1, 2, 3].map((n) => `${n} from ${speaker.name}`).concat(`during, from ${speaker.name}`),
      40_000,
    )
    report('healed after the relay was back', begun)
    for (const one of members.values()) {
      const since = (await one.log()).slice(before.get(one.id))
      expect(since.filter(({ type }) => ['peer-joined', 'peer-left'].includes(type))).toEqual([])
    }
  }, 120_000)

  it('a tab that is closed says that it leaves', async () => {
    const gone = member('tab two')
    const begun = performance.now()
    await pages[1]?.close()
    members.delete('tab two')
    await eachSeesLeave(gone, 'left', 10_000)
    report('closed tab noticed', begun)
  }, 30_000)

  async function eachHears(said: (speaker: Member) => string[], timeout = 20_000): Promise<void> {
    const until = Date.now() + timeout
    for (const listener of members.values()) {
      for (const speaker of others(listener.name as Name)) {
        await expect
          .poll(async () => heard(await listener.log(), speaker.id), {
            timeout: Math.max(until - Date.now(), 100),
            message: `${listener.name} hears ${speaker.name}`,
          })
          .toEqual(said(speaker))
      }
    }
  }

  async function eachSeesLeave(gone: Member, reason: string, timeout: number): Promise<void> {
    const until = Date.now() + timeout
    for (const one of members.values()) {
      await expect
        .poll(async () => left(await one.log(), gone.id), {
          timeout: Math.max(until - Date.now(), 100),
          interval: 20,
          message: `${one.name} sees ${gone.name} leave`,
        })
        .toEqual([reason])
    }
  }
})

function report(what: string, begun: number): void {
  console.log(`${what}: ${Math.round(performance.now() - begun)} ms`)
}
