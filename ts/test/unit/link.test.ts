/** The Link alone, against a host that the test plays. */
import { describe, expect, it, vi } from 'vitest'

import type { RoomsError } from '../../src/errors.js'
import { type HostListeners, Link, type WorkerHost } from '../../src/internal/link.js'
import { PROTOCOL } from '../../src/wire.js'
import { Asks } from '../../worker/asks.js'
import type { AnswerMessage, AskMessage, FromWorker, ToWorker } from '../../worker/protocol.js'

class Host implements WorkerHost {
  listeners: HostListeners | undefined
  posted: ToWorker[] = []
  terminated = 0
  onPost: (message: ToWorker) => void = () => undefined

  post(message: unknown): void {
    expect(this.listeners, 'listens before it posts').toBeDefined()
    this.posted.push(message as ToWorker)
    this.onPost(message as ToWorker)
  }

  listen(listeners: HostListeners): void {
    this.listeners = listeners
  }

  terminate(): void {
    this.terminated += 1
  }

  readonly lock = undefined

  watch(): void {}

  unref(): void {}

  says(message: FromWorker): void {
    this.listeners?.message(message)
  }
}

const boot = { wasm: undefined, options: { relays: 'n0', moqAccept: 'all' } } as const
const ready: FromWorker = {
  t: 'ready',
  protocol: PROTOCOL,
  coreVersion: '0',
  endpointId: 'aa',
  status: 'connected',
}

async function started(): Promise<{ host: Host; link: Link }> {
  const host = new Host()
  host.onPost = (message) => {
    if (message.t === 'boot') host.says(ready)
  }
  return { host, link: await Link.start({ host, boot }) }
}

const caught = (error: unknown): RoomsError => error as RoomsError

describe('start', () => {
  it('tells a script that never answers from a module that never loads', async () => {
    const silent = await Link.start({ host: new Host(), boot, timeoutMs: 10 }).catch(caught)
    expect(silent).toMatchObject({ code: 'WORKER_START' })
    expect((silent as RoomsError).message).toMatch(/script did not answer.*404.*optimizeDeps/)
    const host = new Host()
    host.onPost = () => host.says({ t: 'booting' })
    const slow = await Link.start({ host, boot, timeoutMs: 10 }).catch(caught)
    expect((slow as RoomsError).message).toMatch(/core_bg\.wasm/)
    expect(host.terminated).toBe(1)
  })

  it('refuses a script of another version', async () => {
    const host = new Host()
    host.onPost = () => host.says({ ...ready, protocol: PROTOCOL + 1 })
    const error = await Link.start({ host, boot }).catch(caught)
    expect((error as RoomsError).message).toContain('different versions')
    expect(host.terminated).toBe(1)
  })

  it('rejects when the host fails, when the signal fires, and with what the Worker says', async () => {
    for (const [fails, code] of [
      [(host: Host) => host.listeners?.error(''), 'WORKER_START'],
      [(host: Host) => host.listeners?.messageError(), 'WORKER_START'],
      [
        (host: Host) => host.says({ t: 'failed', error: { code: 'TIMEOUT', message: '' } }),
        'TIMEOUT',
      ],
      [
        (host: Host) => host.says({ t: 'fatal', error: { code: 'x', message: '' } }),
        'WORKER_CRASHED',
      ],
    ] as const) {
      const host = new Host()
      host.onPost = () => fails(host)
      expect(await Link.start({ host, boot }).catch(caught)).toMatchObject({ code })
      expect(host.terminated).toBe(1)
    }
    const host = new Host()
    const signal = AbortSignal.abort('no')
    expect(await Link.start({ host, boot, signal }).catch(caught)).toBe('no')
    expect(host.posted).toEqual([])
  })
})

describe('calls that wait', () => {
  it('reject when the Worker exits, and so do streams and what is asked later', async () => {
    const { host, link } = await started()
    const call = link.call('stats', []).catch(caught)
    const stream = link.stream('statusChanges', [], {
      window: { items: 1, bytes: 1 },
      map: (item: unknown) => item,
    })
    const next = stream.next().catch(caught)
    host.listeners?.error('it exited with code 1')
    for (const settled of [await call, await next, await link.call('stats', []).catch(caught)]) {
      expect(settled).toMatchObject({ code: 'WORKER_CRASHED' })
    }
    expect(await link.ended).toMatchObject({ reason: 'crashed' })
    await link.close(0)
    expect(host.terminated).toBe(1)
  })

  it('reject with CLOSED when the Worker does not shut down in time', async () => {
    vi.useFakeTimers()
    try {
      const { host, link } = await started()
      const call = link.call('stats', []).catch(caught)
      const closing = Promise.all([link.close(100), link.close(100)])
      await vi.advanceTimersByTimeAsync(2_000)
      await closing
      expect(await call).toMatchObject({ code: 'CLOSED' })
      expect(await link.ended).toEqual({ reason: 'closed' })
      expect(host.terminated).toBe(1)
    } finally {
      vi.useRealTimers()
    }
  })
})

describe('questions of the core', () => {
  function asking(limits: Record<'admit' | 'decide' | 'consider', number>) {
    const posted: AskMessage[] = []
    return { posted, asks: new Asks((message) => posted.push(message), limits) }
  }
  const limits = { admit: 20, decide: 20, consider: 20 }

  it('are answered in order; nobody answering is an error', async () => {
    const { host, link } = await started()
    link.answer(7, async (_kind, items) => items.map((item) => Number(item) * 2))
    const answers: AnswerMessage[] = []
    host.onPost = (message) => {
      if (message.t === 'answer') answers.push(message)
    }
    host.says({ t: 'ask', id: 1, room: 7, kind: 'decide', items: [1, 2], limitMs: 100 })
    host.says({ t: 'ask', id: 2, room: 8, kind: 'decide', items: [1], limitMs: 100 })
    await vi.waitFor(() => expect(answers).toHaveLength(2))
    expect(answers.find(({ id }) => id === 1)?.result).toEqual({ ok: true, value: [2, 4] })
    expect(answers.find(({ id }) => id === 2)?.result).toMatchObject({ ok: false })
    await link.close(0)
  })

  it('without an answer in time: admit is denied, the others fail', async () => {
    const { asks, posted } = asking(limits)
    const [admitted, reduced] = await Promise.allSettled([
      asks.ask(1, 'admit', ['a', 'b']),
      asks.ask(1, 'decide', ['a']),
    ])
    expect(admitted).toEqual({ status: 'fulfilled', value: [false, false] })
    expect(reduced).toMatchObject({ status: 'rejected', reason: { code: 'TIMEOUT' } })
    asks.answer({ t: 'answer', id: posted[0]?.id ?? 0, result: { ok: true, value: [true, true] } })
  })

  it('are not believed with a wrong number of answers', async () => {
    const { asks, posted } = asking(limits)
    const answer = asks.ask(1, 'consider', ['a']).catch(caught)
    asks.answer({ t: 'answer', id: posted[0]?.id ?? 0, result: { ok: true, value: [] } })
    expect(await answer).toMatchObject({ code: 'PROTOCOL' })
  })
})
