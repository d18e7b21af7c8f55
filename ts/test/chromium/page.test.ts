/** What only a page has: its identity and its end. */
import { afterEach, describe, expect, it } from 'vitest'

import { Live, Room } from '../../src/index.js'
import { resolveIdentity } from '../../src/internal/identity.js'
import worker from '../support/fake-worker-browser.ts?worker&url'

afterEach(() => sessionStorage.clear())

describe("identity 'tab'", () => {
  it('is the same after a reload, and never in two places at once', async () => {
    const first = await resolveIdentity('tab')
    const beside = await resolveIdentity('tab')
    expect(beside.secretKey).not.toEqual(first.secretKey)
    first.release()
    beside.release()
    const again = await resolveIdentity('tab')
    const other = await resolveIdentity('tab')
    expect([first.secretKey, beside.secretKey]).toContainEqual(again.secretKey)
    expect(other.secretKey).not.toEqual(again.secretKey)
    again.release()
    other.release()
  })

  it('is let go of when the Live is closed', async () => {
    const live = await Live.spawn({ worker, identity: 'tab' })
    const stored = sessionStorage.getItem('iroh-rooms/identity')
    await live.close()
    const next = await Live.spawn({ worker, identity: 'tab' })
    expect(sessionStorage.getItem('iroh-rooms/identity')).toBe(stored)
    await next.close()
  })
})

describe('the page', () => {
  it('says goodbye when it goes, and keeps busy until that is out', async () => {
    await using live = await Live.spawn({ worker })
    const gone = new Promise((resolve) => live.once('status', resolve))
    const start = performance.now()
    dispatchEvent(new PageTransitionEvent('pagehide'))
    expect(performance.now() - start).toBeGreaterThanOrEqual(20)
    expect(await gone).toMatchObject({ status: 'disconnected' })
  })

  it('is kept longer where the others have to agree that it has gone', async () => {
    const live = await Live.spawn({ worker })
    const room = await Room.create('alice', {}, { live }).ready
    const start = performance.now()
    dispatchEvent(new PageTransitionEvent('pagehide'))
    expect(performance.now() - start).toBeGreaterThanOrEqual(200)
    await room.leave()
    await live.close()
  })

  it('is no longer listened to after close', async () => {
    const live = await Live.spawn({ worker })
    await live.close()
    const start = performance.now()
    dispatchEvent(new PageTransitionEvent('pagehide'))
    expect(performance.now() - start).toBeLessThan(15)
  })
})
