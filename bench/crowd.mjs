// The parts with many members: what a room costs as it grows, and what it costs to agree. A member is
// a tab, or a process of crates/cli/examples/peer.rs, and is asked in the same way.

import { readFileSync, readdirSync } from 'node:fs'
import { start, stop } from '../tools/lib.mjs'

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/** Peers of a room that grows: processes, and tabs. */
export const GROWTH = { native: [2, 5, 10, 20, 30, 50], tabs: [2, 5, 10] }
/** What tabs are compared with there. */
export const GATHERERS = ['rooms', 'ywebrtc', 'trystero']
export const VOTERS = [1, 3, 5]
/** Voters of the rooms that lose their doorman. A room for two has its own rules. */
export const FAILOVER = [2, 3, 5]

/** Learners beside the voters. Everyone has a session with everyone: 20 in tabs are more than two cores
 * carry, at rest. */
export const LEARNERS = { native: 20, agreement: 10 }
/** Those in tabs share them, each with a Worker of its own: a process compiles the core once. */
const TOGETHER = 5
/** What has to settle when all are there: paths, gossip, promotions. */
const SETTLE_MS = 4_000
/** The same of a room that grows: the gossip makes sure 1, 5 and 21 s after it began, a fifth more or less. */
const GROWN_MS = 30_000
const REST_MS = 8_000
/** For a crowd to meet, or a room to heal. */
const LIMIT_MS = 90_000
/** Between two kills, so that one room does not wait for the other. */
const APART_MS = 500

/** A native peer: commands as lines of JSON, answered in order. */
export class Process {
  static async start(program, relay) {
    const child = start(program, [relay], { stdio: ['pipe', 'pipe', 'inherit'] })
    const peer = new Process(child)
    await within(peer.#ready, LIMIT_MS, 'a native peer')
    return peer
  }

  #child
  #waiting = []
  #ready

  constructor(child) {
    this.#child = child
    this.#ready = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
    // It may be killed while it is written to.
    child.stdin.on('error', () => {})
    let rest = ''
    child.stdout.setEncoding('utf8').on('data', (text) => {
      const lines = (rest + text).split('\n')
      rest = lines.pop()
      for (const line of lines) {
        const { value, error } = JSON.parse(line)
        const { resolve, reject } = this.#waiting.shift()
        if (error) reject(new Error(error))
        else resolve(value)
      }
    })
    void child.ended.then(() => {
      for (const { reject } of this.#waiting) reject(new Error('the process has ended'))
    })
  }

  ask(method, argument, limitMs = LIMIT_MS) {
    const answer = new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
    this.#child.stdin.write(`${JSON.stringify([method, argument])}\n`)
    return within(answer, limitMs, method)
  }

  /** Processor time so far, of all its threads. */
  processorMs() {
    const tasks = `/proc/${this.#child.pid}/task`
    const times = readdirSync(tasks).map((id) =>
      Number(readFileSync(`${tasks}/${id}/schedstat`, 'utf8').split(' ')[0]),
    )
    return times.reduce((sum, time) => sum + time, 0) / 1e6
  }

  kill() {
    this.#child.kill('SIGKILL')
  }

  async dispose() {
    await stop(this.#child, 'SIGKILL')
  }
}

/** A member in a tab, asked like a process. */
class Member {
  #tab
  #place

  constructor(tab, place) {
    this.#tab = tab
    this.#place = place
  }

  ask(method, argument, limitMs = LIMIT_MS) {
    const call = ([place, method, argument]) => {
      const side = bench.sides[place]
      return (method in side ? side : bench)[method](...(argument === null ? [] : [argument]))
    }
    return within(this.#tab.evaluate(call, [this.#place, method, argument]), limitMs, method)
  }
}

/**
 * So many members of a kind, all loaded and none in a room: a process or a tab each, but for the last
 * `guests` of those in tabs, who share them.
 */
async function crowd(bench, open, kind, count, guests = 0) {
  if (kind === 'native') return Promise.all(Array.from({ length: count }, () => open('native')))
  const members = []
  for (let n = 0; n < count - guests; n++) members.push(new Member(await open(kind), 0))
  for (let n = 0; n < guests; n += TOGETHER) {
    const tab = await open(kind)
    members.push(new Member(tab, 0))
    for (let more = n + 1; more < Math.min(n + TOGETHER, guests); more++)
      members.push(new Member(tab, await tab.evaluate(() => bench.share())))
  }
  return members
}

const nameOf = (kind) => (kind === 'rooms' || kind === 'agreement' ? 'tabs' : kind)

/** The same room with more and more in it. */
export async function growth(bench, found) {
  const { native, tabs } = bench.plan.growth
  const runs = native.map((size) => ['native', size])
  for (const size of tabs) runs.push(...bench.gatherers.map((kind) => [kind, size]))
  for (const [kind, size] of runs) {
    const name = `${nameOf(kind)}, ${size}`
    bench.note(name)
    await bench.attempt(name, (open) => grow(bench, found, open, { kind, size, name }))
    bench.tell('growth', found.all[name])
  }
}

async function grow(bench, found, open, { kind, size, name }) {
  const members = await crowd(bench, open, kind, size)
  const server = bench.meeting[kind]
  const [host, ...others] = members
  const { invite } = await host.ask('gather', { server })
  // All at once: what counts is from the first call until the last one sees everybody.
  const came = others.map(async (it) => {
    const { begun } = await it.ask('gather', { server, invite })
    return { begun, at: await it.ask('gathered', size - 1) }
  })
  const hostAt = host.ask('gathered', size - 1)
  const times = await Promise.all(came)
  const begun = Math.min(...times.map((it) => it.begun))
  found.add(name, 'seen', Math.max(await hostAt, ...times.map((it) => it.at)) - begun)
  const links = () => Promise.all(members.map((it) => it.ask('links', null)))
  await wait(GROWN_MS)
  const before = await links()
  await atRest(bench, found, { members, kind, name })
  const after = await links()
  for (const { connections } of after) found.add(name, 'connections', connections)
  if (!after[0].bytes) return
  // Through the relay everything goes twice, as what is counted at both ends does; otherwise once.
  const on = (links) =>
    links.reduce((sum, { bytes }) => sum + bytes.relay + bytes.direct / 2, 0) / size
  found.add(name, 'sessions', (on(after) - on(before)) / (REST_MS / 1000))
}

/** Bytes and processor time of a member that does nothing. */
async function atRest(bench, found, { members, kind, name }) {
  const processorMs = async () =>
    kind === 'native'
      ? members.reduce((sum, it) => sum + it.processorMs(), 0)
      : await bench.processorMs()
  const [bytes, ms, begun] = [onTheWire(), await processorMs(), performance.now()]
  await wait(REST_MS)
  const seconds = (performance.now() - begun) / 1000
  found.add(name, 'bytes', (onTheWire() - bytes) / seconds / members.length)
  // Of 1,000 ms in a second: in per cent.
  found.add(name, 'cpu', ((await processorMs()) - ms) / seconds / members.length / 10)
}

/** Bytes that went over the loopback of this namespace. */
function onTheWire() {
  const [, received] = /^\s*lo:\s*(\d+)/m.exec(readFileSync('/proc/self/net/dev', 'utf8'))
  return Number(received)
}

/** Rooms with a doorman: joining, changing, resting; and the loss of the doorman. */
export async function agreement(bench, found) {
  const { kinds, voters } = bench.plan.agreement
  for (const kind of kinds) {
    for (const count of voters) {
      const name = `${nameOf(kind)}, ${count}`
      bench.note(name)
      await bench.attempt(name, (open) => agree(bench, found, open, { kind, voters: count, name }))
      bench.tell('agreement', found.all[name])
    }
  }
  for (const count of bench.plan.agreement.failover) {
    const name = `${count} voters`
    bench.note(`the doorman of ${name} is killed`)
    await bench.attempt(`doorman of ${name}`, (open) => failover(bench, found, open, count))
    bench.tell('failover', found.all[name])
  }
}

/** A room of so many voters, all of whom vote. Gives their ids as well. */
async function assembly(bench, members, voters) {
  const ids = await Promise.all(
    members.map((it) => it.ask('start', { server: bench.meeting.rooms })),
  )
  // A room for two is one for three with two in it.
  const cap = voters === 2 ? 3 : voters
  const id = await members[0].ask('create', { name: 'm0', voters: cap })
  for (const [n, member] of members.slice(0, voters).entries())
    if (n > 0) await member.ask('join', { id, name: `m${n}`, voters: cap })
  await members[0].ask('voting', voters)
  return { id, ids, cap }
}

async function agree(bench, found, open, { kind, voters, name }) {
  const { trips, updates, rateMs } = bench.plan.agreement
  const learners = bench.plan.agreement.learners[kind]
  const members = await crowd(bench, open, kind, voters + learners, learners)
  const { id, ids, cap } = await assembly(bench, members, voters)
  for (let n = voters; n < members.length; n++) {
    const { ms } = await members[n].ask('join', { id, name: `m${n}`, voters: cap })
    found.add(name, 'join', ms)
  }
  await wait(SETTLE_MS)
  const doorman = await doormanOf(members)
  const other = members.find((it) => it !== doorman)
  await doorman.ask('echo', null)
  const to = ids[members.indexOf(doorman)]
  for (const ms of await other.ask('trips', { to, count: trips })) found.add(name, 'trip', ms)
  for (const [measure, who] of [
    ['commit', other],
    ['commit of the doorman', doorman],
    ['commit of a learner', members.at(-1)],
  ]) {
    for (const ms of await who.ask('updates', updates)) found.add(name, measure, ms)
  }
  found.add(name, 'rate', await other.ask('rate', rateMs))
  await wait(SETTLE_MS)
  await atRest(bench, found, { members, kind, name })
}

async function doormanOf(members) {
  const standing = await Promise.all(members.map((it) => it.ask('standing', null)))
  const doorman = members[standing.indexOf(true)]
  if (!doorman) throw new Error('nobody stands at the door')
  return doorman
}

/**
 * Rooms whose doorman's process is killed. From then on a voter wants to change something, and somebody
 * to come in. What is waited for is time that runs out, not work: so there are several at once.
 */
async function failover(bench, found, open, voters) {
  const name = `${voters} voters`
  const rooms = await Promise.all(
    Array.from({ length: bench.plan.agreement.kills }, async () => {
      const all = await crowd(bench, open, 'native', voters + 1)
      const { id, cap } = await assembly(bench, all, voters)
      const members = all.slice(0, voters)
      return { id, cap, members, newcomer: all.at(-1), doorman: await doormanOf(members) }
    }),
  )
  await wait(SETTLE_MS)
  const losses = rooms.map(async ({ id, cap, members, newcomer, doorman }, n) => {
    await wait(n * APART_MS)
    doorman.kill()
    const killed = Date.now()
    const left = members.find((it) => it !== doorman)
    const change = left.ask('insist', null)
    const join = newcomer.ask('join', { id, name: 'new', voters: cap, insist: true })
    found.add(name, 'change', (await change) - killed)
    found.add(name, 'entry', (await join).at - killed)
  })
  const failed = (await Promise.allSettled(losses)).find((it) => it.status === 'rejected')
  if (failed) throw failed.reason
}

export function within(promise, limitMs, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not done after ${limitMs} ms`)), limitMs)
  })
  promise.catch(() => {})
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}
