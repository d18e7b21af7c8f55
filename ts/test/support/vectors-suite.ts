/** `vectors/`, read by the shipped module and, where TypeScript knows the format too, by it. */
import { beforeAll, describe, expect, it } from 'vitest'

import chat from '../../../vectors/chat.json' with { type: 'json' }
import presence from '../../../vectors/presence.json' with { type: 'json' }
import roomIds from '../../../vectors/room-ids.json' with { type: 'json' }
import roomStates from '../../../vectors/room-states.json' with { type: 'json' }
import scopes from '../../../vectors/scopes.json' with { type: 'json' }
import tickets from '../../../vectors/tickets.json' with { type: 'json' }
import type * as core from '#core'
import { RoomTicket, RoomsError } from '../../src/index.js'

const bytes = (hex: string): Uint8Array =>
  Uint8Array.from(hex.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16))

/** @param load - the module, instantiated */
export function vectorsSuite(load: () => Promise<typeof core>): void {
  let module: typeof core
  beforeAll(async () => {
    module = await load()
  })

  describe('tickets', () => {
    it.each(tickets.valid.map((vector) => [vector.ticket, vector] as const))(
      '%s',
      (text, vector) => {
        const ticket = RoomTicket.parse(text)
        expect(ticket.topicId).toBe(vector.topicId)
        expect(ticket.bootstrap).toEqual(vector.bootstrap)
        expect(ticket.relays).toEqual(vector.relays)
        expect(ticket.roomId ?? null).toBe(vector.roomId)
        expect(ticket.toString()).toBe(text)
        expect(module.readTicket(text)).toBe(text)
      },
    )

    it.each(tickets.invalid.map(({ ticket, why }) => [why, ticket] as const))(
      'refused: %s',
      (_why, text) => {
        let error: unknown
        try {
          RoomTicket.parse(text)
        } catch (thrown) {
          error = thrown
        }
        expect(RoomsError.is(error, 'INVALID_TICKET')).toBe(true)
        expect(module.readTicket(text)).toBeUndefined()
      },
    )
  })

  describe('presence', () => {
    it.each(presence.cases.map((vector) => [vector.name, vector] as const))('%s', (_, vector) => {
      const { scope, key, timestamp, value } = vector
      const expected = vector.refused ?? `${scope} ${key} ${timestamp} ${value}`
      expect(module.readPresence(bytes(vector.encoded), BigInt(presence.now))).toBe(expected)
    })
  })

  describe('states of a room', () => {
    const { topicId, states } = roomStates
    it.each(states.map((state) => [state.peer, state] as const))('%s', (peer, state) => {
      const read = module.readRoomState(topicId, peer, bytes(state.bytes))
      expect(read).toEqual({
        displayName: state.displayName ?? undefined,
        broadcasts: state.broadcasts,
        relayUrl: state.relayUrl ?? undefined,
        presence: state.presence === null ? undefined : JSON.stringify(state.presence),
        leaving: state.leaving,
        bytes: state.bytes,
      })
    })

    it('are refused from another peer, another room, and when they are cut short', () => {
      const [first, second] = states
      const all = bytes(first!.bytes)
      expect(module.readRoomState(topicId, second!.peer, all)).toBeUndefined()
      expect(module.readRoomState('08'.repeat(32), first!.peer, all)).toBeUndefined()
      expect(module.readRoomState(topicId, first!.peer, all.slice(0, -1))).toBeUndefined()
    })
  })
  it('texts that name a room lead to its id', () => {
    for (const { text, roomId, topicId, refused } of roomIds) {
      const expected = refused ?? [roomId, topicId].filter(Boolean).join(' ')
      expect(module.readRoomId(text), text).toBe(expected)
    }
  })

  it('paths of sessions tell rooms and pairs apart', () => {
    for (const { topicId, dialler, listener, path } of scopes) {
      expect(module.scopePath(topicId, dialler, listener)).toBe(path)
    }
    expect(new Set(scopes.map(({ path }) => path)).size).toBe(scopes.length)
  })

  it('frames of a chat are text or refused', () => {
    for (const { frame, text } of chat) {
      expect(module.readChat(bytes(frame)) ?? null, frame.slice(0, 40)).toBe(text)
    }
  })
}
