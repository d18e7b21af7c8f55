/**
 * Processes, tabs and Node come and go at random, leave or vanish, while their relay is restarted. At
 * rest everybody sees who is there, and on the way nobody was told twice that someone joined or left.
 *
 * The long form: `CHURN_MS=300000 CHURN_PEERS=30`, with a release of the program, or two cores do not
 * carry it; `CHURN_SEED` repeats one, and is printed.
 */
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

import { afterAll, beforeAll, expect, it } from 'vitest'

import {
  type Started,
  serveFolder,
  startChromium,
  startProgram,
  startRelay,
} from '../support/processes.js'
import { random } from '../support/random.js'
import {
  type Line,
  type Member,
  ROOT,
  inTerminal,
  newTicket,
  startInNode,
  startInTab,
} from './members.js'

const LASTS_MS = Number(process.env['CHURN_MS'] ?? 60_000)
/** Native processes. Everyone has a session with everyone: twice as many cost four times as much. */
const PROCESSES = Number(process.env['CHURN_PEERS'] ?? 10)
const TABS = 2
const SEED = Number(process.env['CHURN_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
/** A round: so long they come and go, and then they rest. */
const ROUND_MS = 20_000
/** Between two that come or go, at most. */
const STEP_MS = 1_000
/** How often the relay is restarted, each time at the beginning of a round, and how long it is away. */
const OUTAGES = 2
const OUTAGE_MS = 2_000
/**
 * Who vanished is gone everywhere within 35 s; a busy machine takes longer, and whoever is still wrong
 * after this stays so.
 */
const REST_MS = 120_000
/** What a process may grow by from the first rest to the last, in MiB. */
const GROWTH_MIB = 16

/** Someone who can come and go. */
interface Place {
  readonly name: string
  come(ticket: string): Promise<Present>
}

interface Present extends Member {
  /** Says goodbye. */
  leave(): Promise<void>
  /** Says nothing. */
  vanish(): Promise<void>
  /** Resident memory in MiB, of those that are processes of their own. */
  memory?(): Promise<number>
  /** To be let in with, of those who know one. */
  readonly ticket?: string | undefined
}

const chance = random(SEED)
const one = <T>(of: readonly T[]): T => {
  const found = of[Math.floor(chance() * of.length)]
  if (found === undefined) throw new Error('there is none')
  return found
}

const stops: (() => Promise<void>)[] = []
const present = new Map<Place, Present>()
const counts = { came: 0, left: 0, vanished: 0 }
let relay: Awaited<ReturnType<typeof startRelay>>
let places: readonly Place[]
/** Is there from the beginning to the end. */
let resident: Place

const processPlace = (number: number): Place => {
  const name = `process ${number}`
  return {
    name,
    async come(ticket) {
      const program = startProgram(['join', ticket, '--name', name, '--relay', relay.url])
      stops.push(() => program.stop())
      const member = await inTerminal(program, name)
      return {
        ...member,
        leave: () => program.stop(),
        async vanish() {
          program.process.kill('SIGKILL')
          await program.stop()
        },
        async memory() {
          const status = await readFile(`/proc/${program.process.pid}/status`, 'utf8')
          return Number(/VmRSS:\s*(\d+)/.exec(status)?.[1]) / 1024
        },
      }
    },
  }
}

/** Under one key all the time: who comes back is the same peer. */
const nodePlace: Place = {
  name: 'node',
  async come(ticket) {
    const identity = new Uint8Array(32).fill(7)
    const member = await startInNode({ relay: relay.url, ticket, name: 'node', identity })
    const leave = (): Promise<void> => member.close()
    stops.push(leave)
    return { ...member, ticket: undefined, leave, vanish: leave }
  },
}

beforeAll(async () => {
  relay = await startRelay()
  stops.push(() => relay.stop())
  const site: Started & { readonly url: string } = await serveFolder(ROOT)
  stops.push(() => site.stop())
  const browser = await startChromium()
  stops.push(() => browser.close())
  const tabPlace = (name: string): Place => ({
    name,
    async come(ticket) {
      const { page, member } = await startInTab(browser, site.url, {
        relay: relay.url,
        ticket,
        name,
      })
      return {
        ...member,
        leave: () => page.close(),
        async vanish() {
          const devtools = await page.context().newCDPSession(page)
          const crashed = new Promise((resolve) => page.once('crash', resolve))
          void devtools.send('Page.crash').catch(() => {})
          await crashed
          await page.context().close()
        },
      }
    },
  })
  places = [
    ...Array.from({ length: PROCESSES }, (_, number) => processPlace(number + 1)),
    ...Array.from({ length: TABS }, (_, number) => tabPlace(`tab ${number + 1}`)),
    nodePlace,
  ]
  resident = places[0]!
}, 60_000)

afterAll(async () => {
  await Promise.all(stops.reverse().map((stop) => stop()))
}, 60_000)

it(`at rest everyone sees who is there, CHURN_SEED=${SEED}`, { timeout: 0 }, async () => {
  await come(resident, await newTicket())
  await fill()
  console.log(`all are there: ${await rest()} ms`)
  const used: number[] = []
  const end = Date.now() + LASTS_MS
  for (let round = 0; Date.now() < end; round += 1) {
    if (round < OUTAGES) await restartRelay()
    await comeAndGo()
    const rested = await rest()
    used.push((await present.get(resident)?.memory?.()) ?? 0)
    const { came, left, vanished } = counts
    console.log(
      `${came} came, ${left} left, ${vanished} vanished; at rest after ${rested} ms, ` +
        `${used.at(-1)?.toFixed(1)} MiB`,
    )
  }
  expect((used.at(-1) ?? 0) - (used[0] ?? 0)).toBeLessThan(GROWTH_MIB)
})

async function come(place: Place, ticket: string): Promise<void> {
  present.set(place, await place.come(ticket))
  counts.came += 1
}

/** By a ticket of someone who is there. */
function invitation(): string {
  const tickets = [...present.values()].flatMap(({ ticket }) => ticket ?? [])
  return one(tickets)
}

async function go(): Promise<void> {
  const place = one([...present.keys()].filter((place) => place !== resident))
  const leaving = present.get(place)
  present.delete(place)
  if (chance() < 0.3) {
    counts.vanished += 1
    await leaving?.vanish()
  } else {
    counts.left += 1
    await leaving?.leave()
  }
}

const absent = (): Place[] => places.filter((place) => !present.has(place))
const few = (): boolean => present.size <= places.length * 0.6

async function comeAndGo(): Promise<void> {
  const end = Date.now() + ROUND_MS
  while (Date.now() < end) {
    if (absent().length > 0 && (few() || chance() < 0.5)) await come(one(absent()), invitation())
    else await go()
    await sleep(chance() * STEP_MS)
  }
  await fill()
}

/** All at once, so that one rest can be compared with another. */
async function fill(): Promise<void> {
  await Promise.all(absent().map((place) => come(place, invitation())))
}

async function restartRelay(): Promise<void> {
  const { port } = new URL(relay.url)
  await relay.stop()
  await go()
  await sleep(OUTAGE_MS)
  relay = await startRelay(Number(port))
}

/** Waits until all see who is there. In ms. */
async function rest(): Promise<number> {
  const begun = performance.now()
  await expect.poll(mistakes, { timeout: REST_MS, interval: 200 }).toEqual([])
  return Math.round(performance.now() - begun)
}

/** What is not as it should be, for each who sees it so. */
async function mistakes(): Promise<string[]> {
  const names = new Map([...present].map(([place, { id }]) => [id, place.name]))
  const found = await Promise.all(
    [...present].map(async ([place, member]) => {
      const seen = roster(place.name, await member.log())
      const missing = [...names].filter(([id]) => id !== member.id && !seen.has(id))
      const ghosts = [...seen].filter((id) => !names.has(id))
      const says = missing.map(([, name]) => `${place.name} misses ${name}`)
      return says.concat(ghosts.map((id) => `${place.name} sees the ghost ${id}`))
    }),
  )
  return found.flat()
}

/** Whoever it was told of, each once. */
function roster(name: string, log: readonly Line[]): Set<string> {
  const seen = new Set<string>()
  for (const { type, peer = '' } of log) {
    if (type === 'peer-joined') {
      if (seen.has(peer)) throw new Error(`${name} is told twice that ${peer} joined`)
      seen.add(peer)
    } else if (type === 'peer-left' && !seen.delete(peer)) {
      throw new Error(`${name} is told twice that ${peer} left`)
    } else if (type === 'lagged') throw new Error(`${name} lost events`)
  }
  return seen
}
