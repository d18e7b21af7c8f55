import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'

import { fromBase32, toBase32 } from '../../src/internal/bytes.js'
import { isPublicKey } from '../../src/internal/ed25519.js'
import { RoomTicket } from '../../src/ticket.js'
import { RoomsError } from '../../src/errors.js'

/** Public keys of the secret keys [1; 32] and [2; 32]. */
const ALICE = '8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c'
const BOB = '8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394'
const TOPIC = '07'.repeat(32)

const code = (make: () => unknown): string => {
  try {
    make()
  } catch (error) {
    return RoomsError.is(error) ? error.code : String(error)
  }
  return 'nothing was thrown'
}

describe('RoomTicket', () => {
  it('survives its text', () => {
    const ticket = new RoomTicket(TOPIC, [ALICE, BOB])
    const read = RoomTicket.parse(ticket.toString())
    expect(read).toEqual(ticket)
    expect(read.bootstrap).toEqual([ALICE, BOB])
    expect(read.topicId).toBe(TOPIC)
    expect(read.roomId).toBeUndefined()
    expect(JSON.parse(JSON.stringify({ ticket })).ticket).toBe(String(ticket))
  })

  it('is found behind #room= of a link', () => {
    const ticket = RoomTicket.generate()
    const url = ticket.toURL('https://example.org/x?y=1#old')
    expect(url.href).toBe(`https://example.org/x?y=1#room=${String(ticket)}`)
    expect(RoomTicket.parse(`${url.href}&a=b`)).toEqual(ticket)
    expect(RoomTicket.parse(url)).toEqual(ticket)
  })

  it('is random when generated', () => {
    expect(RoomTicket.generate().topicId).not.toBe(RoomTicket.generate().topicId)
  })

  it('leaves out surplus peers', () => {
    const many = Array.from({ length: 20 }, () => ALICE)
    expect(RoomTicket.new(TOPIC, many).bootstrap).toHaveLength(8)
  })

  it('refuses bad ids', () => {
    expect(code(() => new RoomTicket('07'))).toBe('INVALID_ARGUMENT')
    expect(code(() => new RoomTicket(TOPIC, ['xx'.repeat(32)]))).toBe('INVALID_ARGUMENT')
    expect(code(() => new RoomTicket(TOPIC, ['ff'.repeat(31) + '7e']))).toBe('INVALID_ARGUMENT')
  })

  it('says what is wrong with a text', () => {
    const good = new RoomTicket(TOPIC, [ALICE]).toString()
    for (const [text, why] of [
      ['', 'wrong prefix'],
      ['blobaaaa', 'wrong prefix'],
      ['room', 'cut short'],
      ['room!!!!', 'invalid'],
      [`room${'a'.repeat(4_000)}`, 'longer than 1 KiB'],
      [good.slice(0, -3), 'cut short'],
      [`room${toBase32(Uint8Array.from([0, ...new Array<number>(32).fill(7), 2]))}`, 'newer'],
    ] as const) {
      expect(
        code(() => RoomTicket.parse(text)),
        text,
      ).toBe('INVALID_TICKET')
      expect(() => RoomTicket.parse(text)).toThrow(why)
    }
  })

  it('comes from the environment, which is named when it is wrong', () => {
    const ticket = RoomTicket.generate()
    expect(RoomTicket.fromEnv({ IROH_LIVE_ROOM: String(ticket) })).toEqual(ticket)
    expect(RoomTicket.fromEnv({ IROH_LIVE_TOPIC: 'ab'.repeat(32) }).topicId).toBe('ab'.repeat(32))
    expect(() => RoomTicket.fromEnv({ IROH_LIVE_ROOM: 'x' })).toThrow('IROH_LIVE_ROOM')
    expect(() => RoomTicket.fromEnv({ IROH_LIVE_TOPIC: 'abc' })).toThrow('IROH_LIVE_TOPIC')
    expect(() => RoomTicket.fromEnv({})).toThrow(/IROH_LIVE_ROOM.*IROH_LIVE_TOPIC/)
  })

  it('answers any bytes with a ticket or INVALID_TICKET', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        const outcome = code(() => RoomTicket.parse(`room${toBase32(bytes)}`))
        expect(['INVALID_TICKET', 'nothing was thrown']).toContain(outcome)
      }),
    )
  })
})

describe('base32', () => {
  it('goes both ways', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        expect(fromBase32(toBase32(bytes))).toEqual(bytes)
        expect(fromBase32(toBase32(bytes).toUpperCase())).toEqual(bytes)
      }),
    )
  })

  it('is strict', () => {
    for (const text of ['a', 'aaa', 'aaaaaa', 'ab', '1a', 'a=', '\u212Aa']) {
      expect(() => fromBase32(text), text).toThrow()
    }
  })
})

it('knows points on the curve', () => {
  expect(isPublicKey(Uint8Array.from({ length: 32 }))).toBe(true)
  expect(isPublicKey(new Uint8Array(31))).toBe(false)
  // About half of all strings are points.
  const count = Array.from({ length: 200 }, (_, i) =>
    isPublicKey(Uint8Array.from({ length: 32 }, (_, j) => (i * 7 + j * 13 + i * j) & 255)),
  ).filter(Boolean).length
  expect(count).toBeGreaterThan(60)
  expect(count).toBeLessThan(140)
})
