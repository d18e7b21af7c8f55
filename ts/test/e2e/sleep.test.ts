/**
 * A tab that sleeps, loses its network or its relay: its status tells it, the room heals by itself, and
 * what was said meanwhile is heard.
 */
import { setTimeout as sleep } from 'node:timers/promises'

import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'

import {
  type Proxy,
  type Started,
  serveFolder,
  startChromium,
  startProxy,
  startRelay,
} from '../support/processes.js'
import {
  type Member,
  ROOT,
  type TabMember,
  heard,
  joined,
  left,
  startInNode,
  startInTab,
} from './members.js'

/** How long a sleep is: longer than the silence after which others take a peer for gone. */
const SLEEP_MS = 20_000
const HEALED = { timeout: 40_000, interval: 100 }
/** The network is looked at anew every half a minute or so. */
const MOVED = { timeout: 100_000, interval: 100 }
const LONG = { timeout: 240_000 }

describe.concurrent('a tab', () => {
  let browser: Browser
  let site: Started & { readonly url: string }

  beforeAll(async () => {
    site = await serveFolder(ROOT)
    browser = await startChromium()
  }, 60_000)

  afterAll(async () => {
    await browser.close()
    await site.stop()
  }, 30_000)

  it('that is frozen and thawed', { timeout: 120_000 }, () =>
    withRelay(async ({ node, tab, page }) => {
      const devtools = await page.context().newCDPSession(page)
      await devtools.send('Page.setWebLifecycleState', { state: 'frozen' })
      await sleep(2_000)
      await node.say('during')
      await sleep(SLEEP_MS - 2_000)
      const begun = performance.now()
      await devtools.send('Page.setWebLifecycleState', { state: 'active' })
      await healed(node, tab)
      report('healed after a freeze', begun)
      expect(left(await tab.log(), node.id)).toEqual([])
    }),
  )

  it('without network, which the browser notices', { timeout: 120_000 }, () =>
    withRelay(async ({ node, tab, page, proxy }) => {
      proxy.setTabs('closed')
      await page.context().setOffline(true)
      await sleep(2_000)
      await node.say('during')
      await sleep(SLEEP_MS - 2_000)
      expect(await lastStatus(tab)).toBe('reconnecting')
      proxy.setTabs('open')
      const begun = performance.now()
      await page.context().setOffline(false)
      await healed(node, tab)
      report('healed with the network', begun)
      expect(await lastStatus(tab)).toBe('connected')
      // The outage was its own.
      expect(left(await tab.log(), node.id)).toEqual([])
    }),
  )

  it('whose packets go nowhere, which nobody notices', { timeout: 120_000 }, () =>
    withRelay(async ({ node, tab, proxy }) => {
      proxy.setTabs('stalled')
      await sleep(2_000)
      await node.say('during')
      await sleep(SLEEP_MS - 2_000)
      expect(await lastStatus(tab)).toBe('reconnecting')
      // What stalled is dead when there is a network again: the machine has another address.
      proxy.setTabs('closed')
      proxy.setTabs('open')
      const begun = performance.now()
      await healed(node, tab)
      report('healed after a stall', begun)
      expect(await lastStatus(tab)).toBe('connected')
    }),
  )

  it('whose relay goes away for good moves to another one', LONG, () =>
    withStops(async (stops) => {
      const [ofNode, ...relays] = [await startRelay(), await startRelay(), await startRelay()]
      for (const relay of [ofNode, ...relays]) stops.push(() => relay.stop())
      const urls = relays.map(({ url }) => url)
      const { node, tab } = await two(stops, ofNode.url, urls)
      const at = new URL((await tab.relayUrl()) ?? '').port
      const gone = relays.find(({ url }) => new URL(url).port === at)
      await gone?.stop()
      const begun = performance.now()
      await soon(async () => expect(await lastStatus(tab)).toBe('reconnecting'))
      await node.say('during')
      await soon(async () => expect(await lastStatus(tab)).toBe('connected'), MOVED)
      report('connected to another relay', begun)
      await healed(node, tab)
      report('healed on another relay', begun)
      expect(new URL((await tab.relayUrl()) ?? '').port).not.toBe(at)
    }),
  )

  it('and Node, whose common relay goes away for good, meet on another one', LONG, () =>
    withStops(async (stops) => {
      const relay = await startRelay()
      // Not there until it is needed: both are on the first.
      const other = await startRelay()
      for (const one of [relay, other]) stops.push(() => one.stop())
      await other.stop()
      const urls = [relay.url, other.url]
      const { node, tab } = await two(stops, urls, urls)
      await relay.stop()
      const begun = performance.now()
      const next = await startRelay(Number(new URL(other.url).port))
      stops.push(() => next.stop())
      await node.say('during')
      for (const one of [node, tab]) {
        const moved = async (): Promise<void> => {
          const statuses = (await one.log()).map(({ status }) => status).filter(Boolean)
          expect(statuses.slice(-2)).toEqual(['reconnecting', 'connected'])
        }
        await soon(moved, MOVED)
      }
      report('both are connected to another relay', begun)
      await healed(node, tab)
      report('and have met there', begun)
    }),
  )

  /** Node and a tab that have met and spoken, over a relay that can be cut for the tab. */
  function withRelay(
    work: (two: { node: Member; tab: TabMember; page: Page; proxy: Proxy }) => Promise<void>,
  ): Promise<void> {
    return withStops(async (stops) => {
      const relay = await startRelay()
      stops.push(() => relay.stop())
      const proxy = await startProxy(relay.url)
      stops.push(() => proxy.stop())
      await work({ ...(await two(stops, proxy.url, proxy.url)), proxy })
    })
  }

  async function two(
    stops: Stops,
    relayOfNode: string | readonly string[],
    relay: string | readonly string[],
  ): Promise<{ node: Member; tab: TabMember; page: Page }> {
    const node = await startInNode({ relay: relayOfNode, name: 'node' })
    stops.push(() => node.close())
    const options = { relay, ticket: await node.ticket(), name: 'tab' }
    const { page, member: tab } = await startInTab(browser, site.url, options)
    stops.push(() => page.context().close())
    for (const [one, other] of pairs(node, tab)) {
      await soon(async () => expect(joined(await one.log())).toEqual([other.id]))
      await one.say(`hello from ${one.name}`)
      await hears(other, one, [`hello from ${one.name}`])
    }
    return { node, tab, page }
  }
})

type Stops = (() => Promise<void>)[]

async function withStops(work: (stops: Stops) => Promise<void>): Promise<void> {
  const stops: Stops = []
  try {
    await work(stops)
  } finally {
    for (const stop of stops.reverse()) await stop()
  }
}

const pairs = (one: Member, other: Member): [Member, Member][] => [
  [one, other],
  [other, one],
]

/** Each has heard all of the other, once and in order, and each is there for the other. */
async function healed(node: Member, tab: Member): Promise<void> {
  await node.say('after, from node')
  await tab.say('after, from tab')
  await hears(tab, node, ['hello from node', 'during', 'after, from node'])
  await hears(node, tab, ['hello from tab', 'after, from tab'])
  for (const [one, other] of pairs(node, tab)) {
    const changes = (await one.log())
      .filter(({ type, peer }) => /^peer-(joined|left)$/.test(type) && peer === other.id)
      .map(({ type }) => type)
    changes.forEach((type, i) => expect(type).toBe(i % 2 === 0 ? 'peer-joined' : 'peer-left'))
    expect(changes.length % 2).toBe(1)
  }
}

/** `expect.poll` does not know which of several tests it is in. */
const soon = (check: () => Promise<void>, within = HEALED): Promise<void> =>
  vi.waitFor(check, within)

function hears(listener: Member, speaker: Member, texts: readonly string[]): Promise<void> {
  return soon(async () => expect(heard(await listener.log(), speaker.id)).toEqual(texts))
}

async function lastStatus(member: Member): Promise<string | undefined> {
  return (await member.log()).findLast(({ type }) => type === 'status')?.status
}

function report(what: string, begun: number): void {
  console.log(`${what}: ${Math.round(performance.now() - begun)} ms`)
}
