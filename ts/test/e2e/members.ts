/** Members of a room on real components: in a tab, in Node and in a terminal. */
import { fileURLToPath } from 'node:url'

import type { Browser, Page } from 'playwright-core'

import type * as rooms from '../../src/index.js'
import type { JsonLine, Program } from '../support/processes.js'

type Rooms = typeof rooms

export interface Line {
  readonly type: string
  readonly peer?: string
  readonly name?: string
  readonly text?: string
  readonly reason?: string
  readonly status?: string
}

export interface Member {
  readonly name: string
  readonly id: string
  /** Everything it was told so far. */
  log(): Promise<readonly Line[]>
  say(text: string): Promise<void>
}

/** What is served to tabs, and where the package lies. */
export const ROOT: string = fileURLToPath(new URL('../../..', import.meta.url))

export const joined = (log: readonly Line[]): (string | undefined)[] =>
  log
    .filter(({ type }) => type === 'peer-joined')
    .map(({ peer }) => peer)
    .sort()
export const left = (log: readonly Line[], id: string): (string | undefined)[] =>
  log.filter(({ type, peer }) => type === 'peer-left' && peer === id).map(({ reason }) => reason)
export const heard = (log: readonly Line[], id: string): (string | undefined)[] =>
  log.filter(({ type, peer }) => type === 'chat-message' && peer === id).map(({ text }) => text)
export const frames = (log: readonly Line[], id: string): (string | undefined)[] =>
  log.filter(({ type, peer }) => type === 'frame' && peer === id).map(({ text }) => text)

export interface PeerOptions {
  readonly relay: string | readonly string[]
  readonly ticket?: string
  readonly name: string
  /** Who it is, in Node; a new key by default. */
  readonly identity?: Uint8Array
}

interface PlainPeer {
  readonly id: string
  readonly log: () => Line[]
  readonly say: (text: string) => Promise<void>
  readonly ticket: () => Promise<string>
  readonly relayUrl: () => Promise<string | undefined>
  readonly close: () => Promise<void>
}

export interface TabMember extends Member {
  /** The relay that it is on. */
  relayUrl(): Promise<string | undefined>
}

export interface NodeMember extends Member {
  ticket(): Promise<string>
  close(): Promise<void>
}

/** As shipped: what was bundled, not the sources. */
const shipped = async (): Promise<Rooms> => (await import(`${ROOT}/dist/node.js`)) as Rooms

/** The ticket of a room that nobody is in. */
export const newTicket = async (): Promise<string> =>
  String((await shipped()).RoomTicket.generate())

/** @param options - without a ticket, in a room of its own */
export async function startInNode(options: PeerOptions): Promise<NodeMember> {
  const library = await shipped()
  const { startPeer } = (await import(`${ROOT}/ts/test/e2e/peer.js`)) as {
    startPeer: (library: Rooms, options: object) => Promise<PlainPeer>
  }
  const peer = await startPeer(library, { ticket: library.RoomTicket.generate(), ...options })
  return {
    name: options.name,
    id: peer.id,
    log: async () => peer.log(),
    say: peer.say,
    ticket: peer.ticket,
    close: peer.close,
  }
}

declare const start: (options: PeerOptions) => Promise<string>
declare const peer: PlainPeer

export async function startInTab(
  browser: Browser,
  site: string,
  options: PeerOptions,
): Promise<{ page: Page; member: TabMember }> {
  const context = await browser.newContext()
  const page = await context.newPage()
  page.on('pageerror', (error) => console.error(`${options.name}:`, error))
  await page.goto(`${site}ts/test/e2e/page.html`)
  await page.waitForFunction(() => 'start' in globalThis)
  const id = await page.evaluate((given) => start(given), options)
  const member: TabMember = {
    name: options.name,
    id,
    relayUrl: () => page.evaluate(() => peer.relayUrl()),
    log: () => page.evaluate(() => peer.log()),
    say: (text) => page.evaluate((said) => peer.say(said), text),
  }
  return { page, member }
}

export interface TerminalMember extends Member {
  /** To be let in with, as it was when it came. */
  readonly ticket: string
}

export async function inTerminal(program: Program, name: string): Promise<TerminalMember> {
  const ready = await program.line(({ type }) => type === 'ready')
  const log: Line[] = []
  const id = (value: unknown): string | undefined =>
    typeof value === 'string' ? value : (value as { id?: string } | undefined)?.id
  const plain = ({ type, peer, name, text, reason }: JsonLine): Line =>
    ({ type, peer: id(peer), name, text, reason }) as Line
  void (async () => {
    for (;;) log.push(plain(await program.line(() => true)))
  })().catch(() => {})
  return {
    name,
    id: String(ready['endpointId']),
    ticket: String(ready['ticket']),
    log: async () => log,
    say: async (text) => program.say(text),
  }
}
