import type { Room } from 'iroh-rooms'
import type { Cast } from './cast.js'
import type { Cursors } from './cursors.js'
import { watchPointer } from './pointer.js'
import { readPoint, type Point } from './point.js'
import { throttle } from './throttle.js'

const SEND_EVERY_MS = 50

/** Sends one's own pointer over the room's channel `cursors`, and shows those that come from others. */
export async function shareCursors(
  room: Room,
  floor: HTMLElement,
  cursors: Cursors,
  cast: Cast,
): Promise<void> {
  const channel = room.channel<Point>('cursors')

  const send = throttle<Point>(SEND_EVERY_MS, (point) => {
    // A point that does not get through is not missed: the next one says it all again.
    channel.send(point).catch(() => {})
  })
  watchPointer(floor, (point, means) => {
    send(point)
    floor.dataset['means'] = means
    const self = cast.get(room.self.id)
    if (!self) return
    // The mouse has an arrow of its own; keys and fingers have not.
    if (means !== 'mouse') return cursors.move(self, point)
    cursors.remove(self.id)
    if (point.press) cursors.ripple(self, point)
  })

  for await (const { from, value } of channel) {
    const person = cast.get(from)
    const point = readPoint(value)
    if (person && !person.self && point) cursors.move(person, point)
  }
}
