/** `live.moq` between two endpoints; the same tests in Node, in Chromium and in memory. */
import { afterEach, describe, expect, it } from 'vitest'

import {
  Broadcast,
  type Frame,
  type Live,
  type LiveOptions,
  type MoqSession,
} from '../../src/index.js'
import type { Meeting } from './meeting-suite.js'

const caught = (error: unknown): unknown => error
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

export function moqSuite(meeting: Meeting): void {
  const open: Live[] = []

  async function spawn(options: LiveOptions = {}): Promise<Live> {
    const live = await meeting.spawn(options)
    open.push(live)
    return live
  }

  /** Two endpoints, and the session that the second opened. */
  async function two(options?: LiveOptions): Promise<[Live, Live, MoqSession]> {
    const [one, other] = await Promise.all([spawn(options), spawn()])
    return [one, other, await other.moq.connect(await one.addr())]
  }

  /** Calls until the condition holds: for what is repeated because it may be lost. */
  async function meanwhile<T>(work: () => void, until: Promise<T>): Promise<T> {
    const timer = setInterval(work, 20)
    return until.finally(() => clearInterval(timer))
  }

  afterEach(async () => {
    await Promise.all(open.splice(0).map((live) => live.close()))
  })

  describe('sessions', () => {
    it('are one for each peer, and publish both ways', async () => {
      const [one, other, session] = await two()
      expect(session.remoteId).toBe(one.endpointId)
      expect(session.version).toBe('moq-lite-06')
      const addr = await one.addr()
      await Promise.all([addr, addr, one.endpointId].map((at) => other.moq.connect(at)))
      expect((await other.stats()).sessions).toBe(1)
      expect((await session.stats()).rttMs).toBeGreaterThan(0)

      const back = await one.moq.connect(other.endpointId)
      const announced = back.announced()
      await session.publish('from-other', new Broadcast())
      expect((await announced.next()).value).toEqual({
        remoteId: other.endpointId,
        name: 'from-other',
        active: true,
      })
      expect((await back.subscribe('from-other')).remoteId).toBe(other.endpointId)
      expect(await other.moq.publishedBroadcasts()).toEqual(['from-other'])
      await other.moq.unpublish('from-other')
      expect((await announced.next()).value).toMatchObject({ active: false })
    })

    it('close with a code and a reason, told to both sides, also afterwards', async () => {
      const [one, other, session] = await two()
      const back = await one.moq.connect(other.endpointId)
      const [here, there] = [session.closed, back.closed]
      await session.close(4_000_000_000, 'done')
      const end = { code: 4_000_000_000, reason: 'done' }
      expect(await Promise.all([here, there])).toEqual([end, end])
      await expect.poll(async () => (await one.stats()).sessions).toBe(0)
      expect(await session.stats().catch(caught)).toMatchObject({ code: 'SESSION_CLOSED' })
      const late = await other.moq.connect(await one.addr())
      await (await one.moq.connect(other.endpointId)).close(9, 'back')
      await expect.poll(async () => (await other.stats()).sessions).toBe(0)
      expect(await late.closed).toEqual({ code: 9, reason: 'back' })
    })

    it('wait for a decision where the application decides', async () => {
      const [one, other] = await Promise.all([spawn({ moq: { accept: 'manual' } }), spawn()])
      await one.moq.publish('secret', new Broadcast())
      const incoming = one.moq.incomingSessions()
      const first = other.moq.connect(await one.addr()).catch(caught)
      const rejected = (await incoming.next()).value
      expect(rejected).toMatchObject({ remoteId: other.endpointId, skipped: 0 })
      await rejected?.reject()
      expect(await first).toMatchObject({ code: 'SESSION_CLOSED', details: { code: 1 } })
      expect(await rejected?.accept().catch(caught)).toMatchObject({ code: 'SESSION_CLOSED' })

      const second = other.moq.connect(await one.addr())
      const accepted = await (await incoming.next()).value?.accept()
      expect(accepted?.remoteId).toBe(other.endpointId)
      expect((await (await second).subscribe('secret')).name).toBe('secret')
    })

    it('are no more than allowed, but those who are in may come again', async () => {
      const [one, other, third] = await Promise.all([
        spawn({ maxConnections: 1 }),
        spawn(),
        spawn(),
      ])
      const addr = await one.addr()
      const session = await other.moq.connect(addr)
      const error = await third.moq.connect(addr).catch(caught)
      expect(error).toMatchObject({ code: 'SESSION_CLOSED', details: { code: 1, reason: 'busy' } })
      expect(await one.stats()).toMatchObject({ sessions: 1, refused: 1 })
      await session.close(0, 'done')
      await expect.poll(async () => (await one.stats()).sessions).toBe(0)
      expect((await third.moq.connect(addr)).remoteId).toBe(one.endpointId)
    })

    it('end with the scope, and MoQ with its shutdown', async () => {
      const [one, other, session] = await two()
      const closed = session.closed
      await Promise.all([one.moq.shutdown(), one.moq.shutdown()])
      expect((await closed).code).toBe(64)
      expect(await one.moq.connect(other.endpointId).catch(caught)).toMatchObject({
        code: 'CLOSED',
      })
      expect((await one.stats()).sessions).toBe(0)
    })
  })

  describe('tracks', () => {
    it('lose nothing when they are closed behind the last write', { timeout: 30_000 }, async () => {
      const [one, , session] = await two()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t', { maxAgeMs: 60_000 })
      await one.moq.publish('b', broadcast)
      const remote = await session.subscribe('b')
      const reader = remote.track('t', { start: 0, maxAgeMs: 60_000 })
      await writer.used()
      const data = new Uint8Array(64 << 10)
      for (let i = 0; i < 100; i += 1) writer.write(data)
      await writer.close()
      const groups: number[] = []
      for await (const { group } of reader.frames()) groups.push(group)
      expect(groups).toEqual(Array.from({ length: 100 }, (_, i) => i))
      expect(reader.missed).toBe(0)
    })

    it('that have ended are read by those who come late', async () => {
      const [one, , session] = await two()
      const broadcast = new Broadcast()
      const [before, after] = [broadcast.track('before'), broadcast.track('after')]
      for (const byte of [1, 2, 3]) before.write(Uint8Array.of(byte))
      await before.close()
      await one.moq.publish('b', broadcast)
      for (const byte of [4, 5, 6]) after.write(Uint8Array.of(byte))
      await after.close()
      const remote = await session.subscribe('b')
      const read = async (track: string): Promise<number[]> => {
        const bytes: number[] = []
        for await (const { data } of remote.track(track).frames()) bytes.push(...data)
        return bytes
      }
      expect([await read('before'), await read('after')]).toEqual([[3], [6]])
      await pause(1_000)
      expect([await read('before'), await read('after')]).toEqual([[3], [6]])
    })

    it('make the writer wait for the network', { timeout: 30_000 }, async () => {
      const [one, , session] = await two()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t', { maxAgeMs: 60_000 })
      await one.moq.publish('b', broadcast)
      const reader = (await session.subscribe('b')).track('t', { start: 0, maxAgeMs: 60_000 })
      const frames = reader.frames()
      await writer.used()
      let written = 0
      const writing = (async () => {
        for (; written < 300; written += 1) {
          await writer.ready
          writer.write(new Uint8Array(64 << 10))
        }
        await writer.close()
      })()
      let read = 0
      for await (const _ of frames) read += 1
      // 19 MiB: without waiting, the write that makes it more than 16 would have been refused.
      await writing
      expect([read, reader.missed]).toEqual([300, 0])
    })

    it('say how many groups were lost', { timeout: 30_000 }, async () => {
      const [one, , session] = await two()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await one.moq.publish('b', broadcast)
      const reader = (await session.subscribe('b')).track('t')
      await writer.used()
      for (let i = 0; i < 200; i += 1) writer.write(new Uint8Array(32 << 10))
      await writer.close()
      const seen: Frame[] = []
      for await (const frame of reader.frames()) {
        seen.push(frame)
        await pause(1)
      }
      seen.slice(1).forEach((frame, i) => {
        expect(frame.missed ?? 0).toBe(frame.group - seen[i]!.group - 1)
      })
      expect(seen.length).toBeGreaterThan(0)
      expect(seen[0]!.group + seen.length + reader.missed).toBe(200 + (seen[0]!.missed ?? 0))
    })

    it('carry datagrams both ways', async () => {
      const [one, other, session] = await two()
      const back = await one.moq.connect(other.endpointId)
      const [mine, theirs] = [new Broadcast(), new Broadcast()]
      const [from, to] = [mine.track('t'), theirs.track('t')]
      await one.moq.publish('b', mine)
      await session.publish('b', theirs)
      const here = (await back.subscribe('b')).datagrams('t')
      const there = (await session.subscribe('b')).datagrams('t')
      await Promise.all([from.used(), to.used()])
      // Refused at once, and the track goes on.
      expect(() => from.datagram(new Uint8Array(1_101))).toThrow(/over the limit of 1100/)
      const send = (): void => {
        from.datagram(Uint8Array.of(1), { timestamp: 7 })
        to.datagram(Uint8Array.of(2))
      }
      const [got, sent] = await meanwhile(send, Promise.all([there.next(), here.next()]))
      expect(got.value).toMatchObject({ data: Uint8Array.of(1), timestamp: 7 })
      expect(sent.value?.data).toEqual(Uint8Array.of(2))
      await Promise.all([here.return(), there.return()])
    })

    it('give out an old group, and say that one is not there', async () => {
      const [one, , session] = await two()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t', { maxAgeMs: 60_000 })
      await one.moq.publish('b', broadcast)
      for (const byte of [10, 11, 12]) {
        using group = writer.group()
        group.write(Uint8Array.of(byte))
        group.write(Uint8Array.of(byte, byte))
      }
      const remote = await session.subscribe('b')
      const newest = remote.track('t').frames()
      expect((await newest.next()).value?.data).toEqual(Uint8Array.of(12))
      const old: number[][] = []
      for await (const { data } of remote.fetch('t', 0)) old.push([...data])
      expect(old).toEqual([[10], [10, 10]])
      const missing = await remote
        .fetch('t', 99, { signal: AbortSignal.timeout(5_000) })
        .next()
        .catch(caught)
      expect(missing).toBeInstanceOf(Error)
    })

    it("end with the writer's code", async () => {
      const [one, , session] = await two()
      const broadcast = new Broadcast()
      const writer = broadcast.track('t')
      await one.moq.publish('b', broadcast)
      const frames = (await session.subscribe('b')).track('t').frames()
      await writer.used()
      writer.abort(42)
      const error = await frames.next().catch(caught)
      expect(error).toMatchObject({ code: 'TRACK_CLOSED', details: { code: 42 } })
    })
  })
}
