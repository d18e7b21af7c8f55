/** That the generated declarations say what they mean: an import they cannot resolve would be `any`. */
import type { Core, Room, Scope, StateRoom } from '#core'

import type {
  CoreHandle,
  RoomHandle,
  ScopeHandle,
  StateRoomHandle,
} from '../../worker/core-module.js'
import type { Consensus, Participant, Peer, SessionStats, Status } from '../../src/wire.js'
import { type Same, holds } from './assert.js'

holds<Same<ReturnType<Core['status']>, Status>>()
holds<Same<ReturnType<Room['self']>, Peer>>()
holds<Same<ReturnType<Scope['sessionStats']>, SessionStats | undefined>>()
/** Plain here, read-only there: the same members. */
holds<Same<keyof ReturnType<StateRoom['consensus']>, keyof Consensus>>()
holds<Same<keyof ReturnType<StateRoom['participants']>[number], keyof Participant>>()

/** Each class serves what the Worker asks of it. */
export function serves(core: Core, room: Room, scope: Scope, agreed: StateRoom): void {
  core satisfies CoreHandle
  room satisfies RoomHandle
  scope satisfies ScopeHandle
  agreed satisfies StateRoomHandle
}
