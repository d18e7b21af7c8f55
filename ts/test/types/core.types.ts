/** That the generated declarations say what they mean: an import they cannot resolve would be `any`. */
import type { Core, Room, Scope } from '#core'

import type { CoreHandle, RoomHandle, ScopeHandle } from '../../worker/core-module.js'
import type { Peer, SessionStats, Status } from '../../src/wire.js'
import { type Same, holds } from './assert.js'

holds<Same<ReturnType<Core['status']>, Status>>()
holds<Same<ReturnType<Room['self']>, Peer>>()
holds<Same<ReturnType<Scope['sessionStats']>, SessionStats | undefined>>()

/** Each class serves what the Worker asks of it. */
export function serves(core: Core, room: Room, scope: Scope): void {
  core satisfies CoreHandle
  room satisfies RoomHandle
  scope satisfies ScopeHandle
}
