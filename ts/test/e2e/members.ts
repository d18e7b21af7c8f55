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

export async function startInNode(relay: PeerOptions['relay'], name: string): Promise<NodeMember> {
  // As shipped: what was bundled, not the sources.
  const library = (await import(`${ROOT}/dist/node.js`)) as Rooms
  const { startPeer } = (await import(`${ROOT}/ts/test/e2e/peer.js`)) as {
    startPeer: (library: Rooms, options: object) => Promise<PlainPeer>
  }
  const peer = await startPeer(library, { relay, ticket: library.RoomTicket.generate(), name })
  return {
    name,
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

export async function inTerminal(program: Program, name: string): Promise<Member> {
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
    log: async () => log,
    say: async (text) => program.say(text),
  }
}
