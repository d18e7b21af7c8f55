/** Participants of a room with a doorman, in tabs, in Node and in terminals, each to be killed. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

import type { Browser, Page } from 'playwright-core'

import { deferred } from '../../src/internal/link.js'
import { type JsonLine, startProgram } from '../support/processes.js'

/** A dead voter is noticed, another one elected, its door found: with room for a busy machine. */
export const PATIENCE = { timeout: 60_000, interval: 100 }
const PATIENCE_MS = PATIENCE.timeout

/** What a participant last said about the room. */
export interface Now {
  readonly list: readonly string[]
  readonly status: string
  readonly isDoorman: boolean
  readonly voters: number
  readonly participants: readonly string[]
}

/** What became of many changes. */
export interface Written {
  readonly made: readonly string[]
  readonly unknown: readonly string[]
}

export interface Participant {
  readonly name: string
  /** Of the room. */
  readonly id: string
  now(): Promise<Now | undefined>
  /** Whether a change was acknowledged. */
  add(item: string): Promise<boolean>
  kill(): Promise<void>
}

/** One that writes many changes at a time. */
export interface Writer extends Participant {
  write(count: number): Promise<Written>
}

type Entering = readonly [relay: string, name: string, id?: string]

/** A process of its own. */
export async function inNode(...[relay, name, id]: Entering): Promise<Writer> {
  const script = fileURLToPath(new URL('./state-peer.js', import.meta.url))
  const args = [script, relay, name, ...(id === undefined ? [] : [id])]
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  const outcomes = new Map<string, (made: boolean) => void>()
  const written = deferred<Written>()
  let now: Now | undefined
  const ready = new Promise<string>((resolve, reject) => {
    void (async () => {
      for await (const text of createInterface({ input: child.stdout })) {
        const line = JSON.parse(text) as { type: string; id: string; item: string }
        if (line.type === 'ready') resolve(line.id)
        else if (line.type === 'now') now = line as unknown as Now
        else if (line.type === 'written') written.resolve(line as unknown as Written)
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
    write: (count) => {
      child.stdin.write(`write ${count}\n`)
      return written.promise
    },
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

/** The native program. */
export async function inTerminal(...[relay, name, id]: Entering): Promise<Participant> {
  const how = id === undefined ? ['--create', '{"list":[]}'] : [id, '--watch']
  const program = startProgram(['state', ...how, '--relay', relay, '--name', name])
  const exited = once(program.process, 'exit')
  const ready = await program.line(({ type }) => type === 'ready')
  const outcomes: (() => void)[] = []
  let list: string[] | undefined
  let standing: JsonLine | undefined
  const take = (line: JsonLine): void => {
    if (line.type === 'made' || line.type === 'error') outcomes.shift()?.()
    else if (line.type === 'standing') standing = line
    else if (line.type === 'state') ({ list } = line['state'] as { list: string[] })
    else if (line.type === 'change' && line['refused'] === undefined) {
      const { change } = line as unknown as { change: { list: string[] } | Operation[] }
      if (!Array.isArray(change)) ({ list } = change)
      else list = [...(list ?? []), ...change.filter(({ op }) => op === 'add').map(valueOf)]
    }
  }
  void (async () => {
    for (;;) take(await program.line(() => true))
  })().catch(() => undefined)
  return {
    name,
    id: String(ready['roomId']),
    async now() {
      if (!list || !standing) return undefined
      const { status, isDoorman, voters, participants } = standing as unknown as {
        status: string
        isDoorman: boolean
        voters: string[]
        participants: string[]
      }
      const there = participants.toSorted()
      return { list, status, isDoorman, voters: voters.length, participants: there }
    },
    async add(item) {
      for (const until = Date.now() + PATIENCE_MS; Date.now() < until;) {
        if (list?.includes(item)) return true
        const patch = [
          { op: 'test', path: '/list', value: list },
          { op: 'add', path: '/list/-', value: item },
        ]
        program.say(JSON.stringify(patch))
        await new Promise<void>((resolve) => outcomes.push(resolve))
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
      return false
    },
    async kill() {
      program.process.kill('SIGKILL')
      await exited
    },
  }
}

interface Operation {
  readonly op: string
  readonly value: string
}
const valueOf = ({ value }: Operation): string => value

declare const start: (options: object) => Promise<void>
declare const lines: ({ type: string } & Now)[]
declare const peer: {
  add(item: string): Promise<boolean>
  write(count: number): Promise<Written>
  room: { id: string }
}

export interface TabParticipant extends Writer {
  /** The same page again, with the same key under the same name. */
  reload(): Promise<void>
}

/** A tab in a context of its own. */
export async function inTab(
  [browser, site]: readonly [Browser, string],
  ...[relay, name, id]: Entering
): Promise<TabParticipant> {
  const context = await browser.newContext()
  const page: Page = await context.newPage()
  page.on('pageerror', (error) => console.error(`${name}:`, error))
  await page.goto(`${site}ts/test/e2e/state.html`)
  const enter = async (room?: string): Promise<string> => {
    await page.waitForFunction(() => 'start' in globalThis)
    const options = { relay, name, identity: 'tab', ...(room === undefined ? {} : { id: room }) }
    await page.evaluate((given) => start(given), options)
    return page.evaluate(() => peer.room.id)
  }
  const room = await enter(id)
  return {
    name,
    id: room,
    now: () => page.evaluate(() => lines.findLast(({ type }) => type === 'now')),
    add: (item) => page.evaluate((what) => peer.add(what), item),
    write: (count) => page.evaluate((many) => peer.write(many), count),
    async reload() {
      await page.reload()
      await enter(room)
    },
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
