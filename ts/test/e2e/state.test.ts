/**
 * Rooms with a doorman, end to end on real components: tabs in contexts of their own, Node processes and
 * the native program. They are killed without a word, again and again; each time somebody new comes in
 * by the id alone.
 */
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

import type { Browser } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

import {
  type Program,
  serveFolder,
  startChromium,
  startProgram,
  startProxy,
  startRelay,
} from '../support/processes.js'
import { type Participant, PATIENCE, inNode, inTab, inTerminal } from './state-members.js'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const ROUNDS = 10
/** How long a test may take that waits for things one after another. */
const LONG = { timeout: 300_000 }

let relay: Program & { readonly url: string }
let tabs: readonly [Browser, string]
const stops: (() => Promise<void>)[] = []
const alive: Participant[] = []
let room: string
/** What was acknowledged, in order. */
let acknowledged: string[] = []

beforeAll(async () => {
  relay = await startRelay()
  stops.push(() => relay.stop())
  const served = await serveFolder(ROOT)
  stops.push(() => served.stop())
  const browser = await startChromium()
  stops.push(() => browser.close())
  tabs = [browser, served.url]
}, 90_000)

afterAll(async () => {
  for (const stop of stops.reverse()) await stop()
}, 30_000)

async function killAll(): Promise<void> {
  for (const one of alive.splice(0)) await one.kill()
  acknowledged = []
}

/** Takes someone out, or several at once. */
async function kill(...gone: readonly Participant[]): Promise<void> {
  for (const one of gone) alive.splice(alive.indexOf(one), 1)
  await Promise.all(gone.map((one) => one.kill()))
}

async function enter<P extends Participant>(coming: Promise<P>): Promise<P> {
  const one = await coming
  alive.push(one)
  return one
}

/** Waits until it holds for everyone, or for some. */
async function everywhere<T>(
  what: (now: Awaited<ReturnType<Participant['now']>>) => T,
  is: (value: T, name: string) => void,
  among: readonly Participant[] = alive,
): Promise<void> {
  for (const one of among) {
    await expect.poll(async () => (is(what(await one.now()), one.name), true), PATIENCE).toBe(true)
  }
}

const allHave = (list: readonly string[]): Promise<void> =>
  everywhere(
    (now) => now?.list,
    (has, name) => expect(has, name).toEqual(list),
  )

/** So many vote that one of them may be lost. */
const voters = (count: number): Promise<void> =>
  everywhere(
    (now) => now?.voters ?? 0,
    (vote, name) => expect(vote, name).toBeGreaterThanOrEqual(count),
  )

/** Everyone knows who is there, and nobody else. */
const allKnown = (): Promise<void> =>
  everywhere(
    (now) => now?.participants,
    (there, name) => expect(there, name).toEqual(alive.map((one) => one.name).toSorted()),
  )

/** Everybody acknowledges one change of each, and all come to the same list. */
async function allAgree(round: string): Promise<void> {
  for (const one of alive) {
    const item = `${round}: ${one.name}`
    expect(await one.add(item), item).toBe(true)
    acknowledged.push(item)
  }
  await allHave(acknowledged)
}

async function doorman(): Promise<Participant> {
  let found: Participant | undefined
  await expect
    .poll(async () => {
      found = undefined
      for (const one of alive) {
        const now = await one.now()
        if (now?.isDoorman && now.status !== 'read-only') found = one
      }
      return found !== undefined
    }, PATIENCE)
    .toBe(true)
  return found as Participant
}

describe('five of all kinds', () => {
  beforeAll(async () => {
    room = (await enter(inNode(relay.url, 'node'))).id
    for (const name of ['tab 1', 'tab 2']) await enter(inTab(tabs, relay.url, name, room))
    for (const name of ['native 1', 'native 2']) await enter(inTerminal(relay.url, name, room))
  }, 120_000)

  afterAll(killAll, 30_000)

  it('agree', LONG, async () => {
    await voters(5)
    await allAgree('start')
  })

  it('are read and changed from a terminal', LONG, async () => {
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
    await allHave(acknowledged)
  })

  const kinds = [inTerminal, inNode, (...who: Parameters<typeof inNode>) => inTab(tabs, ...who)]
  for (let round = 1; round <= ROUNDS; round += 1) {
    it(`lose their doorman, round ${round}, and a newcomer gets in`, LONG, async () => {
      await kill(await doorman())
      const kind = kinds[round % kinds.length] ?? inNode
      const name = `newcomer ${round}`
      await enter(kind(relay.url, name, room))
      await allAgree(name)
      await allKnown()
      await voters(3)
    })
  }

  it('lose two at once, the doorman among them', LONG, async () => {
    await voters(5)
    const leads = await doorman()
    await kill(leads, alive.find((one) => one !== leads) as Participant)
    await enter(inNode(relay.url, 'after two', room))
    await allAgree('after two')
    await allKnown()
  })
})

describe('a pair', () => {
  afterEach(killAll, 30_000)

  for (const isDoorman of [true, false]) {
    const who = isDoorman ? 'doorman, a tab' : 'other one, in Node'
    it(`loses its ${who}, and nothing else`, LONG, async () => {
      const tab = await enter(inTab(tabs, relay.url, 'tab'))
      const node = await enter(inNode(relay.url, 'node', tab.id))
      await voters(2)
      await allAgree('both')
      expect(await doorman()).toBe(tab)
      await kill(isDoorman ? tab : node)
      await allAgree('alone')
      await enter(inTerminal(relay.url, 'newcomer', tab.id))
      await allAgree('in company')
      await allKnown()
    })
  }
})

describe('those who come back', () => {
  afterEach(killAll, 30_000)

  it('reload five times under their name', LONG, async () => {
    room = (await enter(inNode(relay.url, 'node'))).id
    const tab = await enter(inTab(tabs, relay.url, 'tab', room))
    await enter(inTerminal(relay.url, 'native', room))
    await voters(3)
    for (let time = 1; time <= 5; time += 1) {
      await tab.reload()
      await allAgree(`reload ${time}`)
      await allKnown()
    }
  })

  it('were cut off, a minority', LONG, async () => {
    // Everyone is behind it, or tabs would find their way to the others' relay.
    await using proxy = await startProxy(relay.url)
    room = (await enter(inNode(proxy.url, 'node'))).id
    await enter(inTerminal(proxy.url, 'native 1', room))
    await enter(inTerminal(proxy.url, 'native 2', room))
    const majority = [...alive]
    for (const name of ['tab 1', 'tab 2']) await enter(inTab(tabs, proxy.url, name, room))
    await voters(5)
    await allAgree('before')
    proxy.setTabs('closed')
    const minority = alive.splice(majority.length)
    await allAgree('without them')
    for (const one of minority) {
      await expect.poll(async () => (await one.now())?.status, PATIENCE).not.toBe('active')
    }
    proxy.setTabs('open')
    alive.push(...minority)
    await allHave(acknowledged)
    await allAgree('after')
    await allKnown()
  })
})

it('makes a thousand changes while others come and go', LONG, async () => {
  const founder = await enter(inNode(relay.url, 'node 1'))
  room = founder.id
  const writers = [
    await enter(inNode(relay.url, 'node 2', room)),
    await enter(inTab(tabs, relay.url, 'tab', room)),
  ]
  await voters(3)
  const writing = Promise.all(writers.map((one) => one.write(500)))
  await enter(inTerminal(relay.url, 'native 1', room))
  await kill(founder)
  const guest = await enter(inTab(tabs, relay.url, 'guest', room))
  await enter(inNode(relay.url, 'node 3', room))
  await kill(guest)
  await enter(inTerminal(relay.url, 'native 2', room))
  const outcomes = await writing
  const made = outcomes.flatMap((one) => one.made)
  const unknown = outcomes.flatMap((one) => one.unknown)
  expect(made.length + unknown.length).toBe(1_000)
  // Those whose outcome is not known were lost with the doorman: a few.
  expect(made.length).toBeGreaterThan(800)
  expect(await writers[0]?.add('the end')).toBe(true)
  await everywhere(
    (now) => now?.list.at(-1),
    (last, name) => expect(last, name).toBe('the end'),
  )
  const list = (await alive[0]?.now())?.list ?? []
  expect(new Set(list).size, 'each once').toBe(list.length)
  expect(list).toEqual(expect.arrayContaining(made))
  await allHave(list)
  await killAll()
})
