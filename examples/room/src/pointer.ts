import { makePoint, type Point } from './point.js'

const KEY_STEP = 0.02
const KEY_STEP_LARGE = 0.1
const ARROWS: Record<string, readonly [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
}

/** How a point was made: a mouse shows where it is by itself, a finger or a key does not. */
export type Means = 'mouse' | 'touch' | 'keys'

/** Turns mouse, pen, finger and arrow keys on the floor into points. */
export function watchPointer(
  floor: HTMLElement,
  onPoint: (point: Point, means: Means) => void,
): void {
  let last = makePoint(0.5, 0.5)

  const report = (point: Point, means: Means): void => {
    last = point
    onPoint(point, means)
  }
  const fromEvent = (event: PointerEvent, press: boolean): void => {
    const box = floor.getBoundingClientRect()
    const x = (event.clientX - box.left - floor.clientLeft) / floor.clientWidth
    const y = (event.clientY - box.top - floor.clientTop) / floor.clientHeight
    report(makePoint(x, y, press), event.pointerType === 'touch' ? 'touch' : 'mouse')
  }

  floor.addEventListener('pointermove', (event) => fromEvent(event, false))
  floor.addEventListener('pointerdown', (event) => fromEvent(event, true))
  floor.addEventListener('keydown', (event) => {
    const arrow = ARROWS[event.key]
    if (arrow) {
      const step = event.shiftKey ? KEY_STEP_LARGE : KEY_STEP
      report(makePoint(last.x + arrow[0] * step, last.y + arrow[1] * step), 'keys')
    } else if (event.key === 'Enter' || event.key === ' ') {
      report(makePoint(last.x, last.y, true), 'keys')
    } else {
      return
    }
    event.preventDefault()
  })
}
