// The measures, part by part. Everything is done in turn, one side after the other and then again
// (A B A B), so that a machine that grows slower or faster decides nothing. Nothing waits without limit.

import { readFileSync } from 'node:fs'
import {
  FAILOVER,
  GATHERERS,
  GROWTH,
  LEARNERS,
  Process,
  VOTERS,
  agreement,
  growth,
  within,
} from './crowd.mjs'

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

export const KIB = 1024
export const SIZES = [KIB, 64 * KIB]
/** Added to a lever's name where it is measured with a `Live` that was ready before. */
export const READY = ', ready'
/** How much is done. A quick run tells whether it works, a full one gives the figures. */
const PLANS = {
  full: {
    rounds: 6,
    talks: 3,
    trips: 200,
    blastMs: 2000,
    gone: 3,
    boundary: 3,
    levers: 3,
    fanout: 2,
    // Each is a Worker with a module of its own, in one tab.
    readers: [1, 10, 50],
    growth: GROWTH,
    agreement: {
      kinds: ['native', 'agreement'],
      voters: VOTERS,
      learners: LEARNERS,
      trips: 200,
      updates: 200,
      rateMs: 4000,
      failover: FAILOVER,
      kills: 8,
    },
  },
  quick: {
    rounds: 2,
    talks: 1,
    trips: 50,
    blastMs: 700,
    gone: 1,
    boundary: 1,
    levers: 1,
    fanout: 1,
    readers: [1, 10],
    growth: { native: [2, 5], tabs: [2, 3] },
    agreement: {
      kinds: ['native', 'agreement'],
      voters: [1, 3],
      learners: { native: 2, agreement: 2 },
      trips: 20,
      updates: 20,
      rateMs: 1000,
      failover: [3],
      kills: 2,
    },
  },
}
/** How long the measured time of a stream is waited for. */
const WARM_MS = 500
/** Rest before memory is measured, and before a room is entered from a `Live` that is ready. */
const IDLE_MS = 1000
/** Long enough to stand out. */
const SPIN_MS = 200
/** Beyond these a side has not noticed. */
const CLOSED_LIMIT_MS = 20_000
const KILLED_LIMIT_MS = 30_000
/** For whatever should take a moment: what is beyond has failed. */
const LIMIT_MS = 20_000

/** Events and frames that wait in the core, and how many of them the page has already. */
const BACKLOG = { cursors: 10, messages: 450, eventsInPage: 256, frames: 192 }
const IN_PAGE = { [KIB]: 64, [64 * KIB]: 63 }

export class Bench {
  /**
   * `sides`: by kind, what `open` of its Side is given; without those that cannot run here. `meeting`:
   * the same for what `growth` compares. `peer`: the native peer. `tell`: given the table and the samples
   * of a row that is done.
   */
  constructor({ browser, site, sides, meeting, peer, levers, quick, note, tell }) {
    Object.assign(this, { browser, site, sides, meeting, peer, levers, note, tell })
    this.plan = quick ? PLANS.quick : PLANS.full
    this.failures = []
  }

  get gatherers() {
    return GATHERERS.filter((kind) => kind in this.meeting)
  }

  get kinds() {
    return Object.keys(this.sides)
  }

  /** Start, join, memory, round trip, throughput. */
  async sidesPart() {
    const found = new Samples()
    const { rounds, talks } = this.plan
    for (let round = 0; round < rounds; round++) {
      const talk = round % Math.ceil(rounds / talks) === 0
      this.note(`round ${round + 1} of ${rounds}`)
      for (const kind of this.kinds) {
        await this.attempt(`${kind}, round ${round + 1}`, async (open) => {
          const pair = await this.pair(open, kind, found)
          if (talk) await this.talk(pair, kind, found, { memory: true })
        })
      }
      await this.attempt(`ready, round ${round + 1}`, async (open) => {
        await this.pair(open, 'rooms', found, { as: 'ready', isReady: true })
      })
      if (!talk) continue
      await this.attempt('empty page', async (open) => {
        const page = await open('blank')
        await wait(IDLE_MS)
        found.add('blank', 'memory', await this.memory(page))
      })
    }
    return found.all
  }

  /** How soon the other tab is missed: when it is closed, and when its process dies. */
  async gonePart() {
    const found = new Samples()
    const ways = {
      closed: { limitMs: CLOSED_LIMIT_MS, end: (tab) => tab.close() },
      killed: { limitMs: KILLED_LIMIT_MS, end: (tab) => tab.crash() },
    }
    for (let round = 0; round < this.plan.gone; round++) {
      for (const [name, { limitMs, end }] of Object.entries(ways)) {
        this.note(`${name}, round ${round + 1} of ${this.plan.gone}`)
        const waiting = this.kinds.map(async (kind, n) => {
          // One after the other, but the waiting overlaps: nothing is computed meanwhile.
          await wait(n * 2000)
          await this.attempt(`${kind}, ${name}`, async (open) => {
            const [a, b] = await this.pair(open, kind, new Samples())
            await wait(500)
            const left = a.evaluate(() => bench.left())
            const begun = await b.evaluate(() => bench.now())
            end(b).catch(() => {})
            const at = await within(left, limitMs, '').catch(() => undefined)
            found.add(kind, name, at === undefined ? Infinity : at - begun)
          })
        })
        await Promise.all(waiting)
      }
    }
    return found.all
  }

  /** The way between the page and its Worker; this library alone has one. */
  async boundaryPart() {
    const found = new Samples()
    for (let round = 0; round < this.plan.boundary; round++) {
      this.note(`round ${round + 1} of ${this.plan.boundary}`)
      await this.attempt('boundary', async (open) => {
        const [a, b] = await this.pair(open, 'rooms', new Samples())
        for (let n = 0; n < 200; n++) found.add('rooms', 'call', await ask(b, 'call'))
        await ask(b, 'openCursors', BACKLOG.cursors)
        await within(
          a.evaluate(async (count) => {
            for (let n = 0; n < count; n++) await bench.side.say(`event ${n}`)
          }, BACKLOG.messages),
          LIMIT_MS,
          'chat',
        )
        await wait(IDLE_MS)
        // Each cursor begins with the peer that is there.
        const events = BACKLOG.messages + 1
        const costs = await ask(b, 'drainCursors', { events, inPage: BACKLOG.eventsInPage })
        for (const cost of costs) found.add('rooms', 'event', cost)
        for (const size of SIZES) {
          const frames = { name: `frames-${size}`, size, count: BACKLOG.frames }
          found.add('rooms', `frame out ${size}`, await ask(a, 'publishFrames', frames))
          const drain = { ...frames, inPage: IN_PAGE[size] }
          found.add('rooms', `frame in ${size}`, await ask(b, 'drainFrames', drain))
        }
      })
    }
    return found.all
  }

  /** One writer and many readers, without a room. */
  async fanoutPart() {
    const found = new Samples()
    const server = this.sides.rooms
    for (let round = 0; round < this.plan.fanout; round++) {
      for (const count of this.plan.readers) {
        this.note(`${count} readers, round ${round + 1} of ${this.plan.fanout}`)
        await this.attempt(`${count} readers`, async (open) => {
          const [a, b] = [await open('fanout'), await open('fanout')]
          const addr = await ask(a, 'open', { server })
          const setUps = []
          for (let n = 0; n < count; n++) setUps.push(await ask(b, 'connect', { server, addr }))
          for (const ms of setUps) found.add(count, 'session', ms)
          const stamped = a.evaluate(() => bench.stamp())
          const latencies = await ask(b, 'latencies', this.plan.blastMs)
          for (const ms of latencies) found.add(count, 'latency', ms)
          await a.evaluate(() => bench.stop())
          await within(stamped, LIMIT_MS, 'stamps')
          for (const size of SIZES) {
            const begun = await this.processorMs()
            const { result, bytes } = await this.throughput(a, b, size)
            found.add(count, `bulk ${size}`, result)
            found.add(count, `cpu ${size}`, ((await this.processorMs()) - begun) / (bytes / 1e6))
            for (const ms of await b.evaluate(() => bench.side.firsts))
              found.add(count, 'first', ms)
          }
        })
      }
    }
    return found.all
  }

  /** From two to many in one room. */
  async growthPart() {
    const found = new Samples()
    await growth(this, found)
    return found.all
  }

  /** Rooms with a doorman. */
  async agreementPart() {
    const found = new Samples()
    await agreement(this, found)
    return found.all
  }

  /** This library as it is, and with each of its levers off. */
  async leversPart() {
    const found = new Samples()
    for (let round = 0; round < this.plan.levers; round++) {
      this.note(`round ${round + 1} of ${this.plan.levers}`)
      for (const [lever, options] of Object.entries({ on: {}, ...this.levers })) {
        await this.attempt(lever, async (open) => {
          const pair = await this.pair(open, 'rooms', found, { as: lever, options })
          await this.talk(pair, lever, found)
        })
        await this.attempt(lever + READY, async (open) => {
          await this.pair(open, 'rooms', found, { as: lever + READY, options, isReady: true })
        })
      }
    }
    return found.all
  }

  // --------------------------------------------------------------------------------------------

  /**
   * Runs one thing in tabs, or native peers, that are closed afterwards; its failure is kept and stops
   * nobody else.
   */
  async attempt(what, work) {
    const tabs = []
    try {
      await work(async (kind) => {
        const tab =
          kind === 'native'
            ? await Process.start(this.peer, this.meeting.rooms)
            : await this.browser.open(`${this.site}/bench/page.html?kind=${kind}`)
        tabs.push(tab)
        return tab
      })
    } catch (error) {
      this.failures.push(`${what}: ${error.message.split('\n')[0]}`)
      this.note(`failed: ${this.failures.at(-1)}`)
    }
    await Promise.all(tabs.map((it) => within(it.dispose(), LIMIT_MS, 'close').catch(() => {})))
  }

  /** Two tabs that have met. With `isReady` they were started, and left alone for a while, before. */
  async pair(open, kind, found, { as = kind, options = {}, isReady = false } = {}) {
    const [a, b] = [await open(kind), await open(kind)]
    const given = { server: this.sides[kind], ...options }
    if (isReady) {
      for (const tab of [a, b]) await ask(tab, 'start', given)
      await wait(IDLE_MS)
    }
    const host = await within(
      a.evaluate((given) => bench.host(given), given),
      LIMIT_MS,
      'start',
    )
    const join = await within(
      b.evaluate((given) => bench.join(given), { ...given, invite: host.invite }),
      LIMIT_MS,
      'join',
    )
    for (const { marks } of [host, join])
      if (marks.ready !== undefined) found.add(as, 'start', marks.ready)
    found.add(as, 'join', join.ms)
    for (const [mark, at] of Object.entries(join.marks)) found.add(as, `mark ${mark}`, at)
    return [a, b]
  }

  async talk([a, b], as, found, { memory: withMemory = false } = {}) {
    if (withMemory) {
      await wait(IDLE_MS)
      found.add(as, 'memory', await this.memory(b))
      const held = await b.evaluate(() => bench.side.held?.())
      if (held !== undefined) found.add(as, 'held', held)
    }
    const trips = b.evaluate((count) => bench.trips(count), this.plan.trips)
    for (const trip of await within(trips, LIMIT_MS, 'round trips')) found.add(as, 'trip', trip)
    for (const size of SIZES)
      found.add(as, `bulk ${size}`, (await this.throughput(a, b, size)).result)
  }

  /** Bytes that only the tab's process has: heap, WebAssembly, what WebRTC holds, everything. */
  async memory(page) {
    const times = async () => {
      const renderers = (await this.browser.processes()).filter(({ type }) => type === 'renderer')
      return new Map(renderers.map(({ id, cpuTime }) => [id, cpuTime]))
    }
    // Nothing says which process a tab has. It is the one that is busy when the tab is.
    const before = await times()
    await page.evaluate((ms) => bench.spin(ms), SPIN_MS)
    const busy = [...(await times())].map(([id, time]) => [id, time - (before.get(id) ?? 0)])
    const [[id]] = busy.sort(([, a], [, b]) => b - a)
    const lines = readFileSync(`/proc/${id}/smaps_rollup`, 'utf8').matchAll(
      /^Private_.*?(\d+) kB/gm,
    )
    return [...lines].reduce((sum, [, kib]) => sum + Number(kib) * KIB, 0)
  }

  /** Processor time of the whole browser so far. */
  async processorMs() {
    const processes = await this.browser.processes()
    return processes.reduce((sum, { cpuTime }) => sum + cpuTime * 1000, 0)
  }

  async throughput(a, b, size) {
    const how = { size, warmMs: WARM_MS, ms: this.plan.blastMs }
    const received = b.evaluate((how) => bench.receive(how), how)
    const sent = a.evaluate((size) => bench.blast(size), size)
    try {
      return await within(received, LIMIT_MS, `receiving ${size} bytes`)
    } finally {
      await a.evaluate(() => bench.stop())
      await within(sent, LIMIT_MS, `sending ${size} bytes`)
      await within(
        b.evaluate(() => bench.silence()),
        LIMIT_MS,
        'silence',
      )
    }
  }
}

/** Lists of figures, by side and measure. */
class Samples {
  all = {}

  add(side, measure, figure) {
    const of = (this.all[side] ??= {})
    ;(of[measure] ??= []).push(figure)
  }
}

/** Calls a method of the tab's Side. */
const ask = (page, method, argument) =>
  within(
    page.evaluate(([method, argument]) => bench.side[method](argument), [method, argument]),
    LIMIT_MS,
    method,
  )
