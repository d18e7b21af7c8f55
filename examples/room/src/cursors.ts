import { wear, type Person } from './cast.js'
import { part, stamp } from './dom.js'
import type { Point } from './point.js'

/** A room may be large; a screen is not. */
const CURSORS_MAX = 64
/** How long a cursor takes for most of the way to where it should be. */
const GLIDE_MS = 70
const FADE_AFTER_MS = 3_000
const HIDE_AFTER_MS = 30_000
/** What a name beside the arrow needs. */
const NAME_WIDTH_PX = 150
const NAME_HEIGHT_PX = 40
const RIPPLE_MS = 700
const RIPPLES_MAX = 32

interface Cursor {
  element: HTMLElement
  at: Point
  target: Point
  movedAt: number
}

/** Everybody's pointer on the floor. They glide between the points that arrive, and fade when they rest. */
export class Cursors {
  readonly #layer: HTMLElement
  readonly #cursors = new Map<string, Cursor>()
  readonly #calm = matchMedia('(prefers-reduced-motion: reduce)')
  #width = 0
  #height = 0
  #frame = 0
  #lastFrameAt = 0

  constructor(layer: HTMLElement) {
    this.#layer = layer
    new ResizeObserver(() => {
      this.#width = layer.clientWidth
      this.#height = layer.clientHeight
      for (const cursor of this.#cursors.values()) this.#place(cursor)
    }).observe(layer)
    setInterval(() => this.#fade(), 500)
  }

  move(person: Person, point: Point): void {
    const cursor = this.#cursors.get(person.id) ?? this.#add(person, point)
    if (!cursor) return
    cursor.target = point
    cursor.movedAt = performance.now()
    cursor.element.dataset['rest'] = 'no'
    if (point.press) this.ripple(person, point)
    if (this.#calm.matches) {
      cursor.at = point
      this.#place(cursor)
    } else if (!this.#frame) {
      this.#lastFrameAt = performance.now()
      this.#frame = requestAnimationFrame((now) => this.#glide(now))
    }
  }

  rename(person: Person): void {
    const cursor = this.#cursors.get(person.id)
    if (cursor) part(cursor.element, '.cursor-name').textContent = person.name
  }

  remove(id: string): void {
    this.#cursors.get(id)?.element.remove()
    this.#cursors.delete(id)
  }

  /** A ring that spreads where someone pressed. */
  ripple(person: Person, point: Point): void {
    if (this.#layer.querySelectorAll('.ripple').length >= RIPPLES_MAX) return
    const ripple = document.createElement('span')
    ripple.className = 'ripple'
    ripple.style.left = `${point.x * 100}%`
    ripple.style.top = `${point.y * 100}%`
    wear(ripple, person)
    this.#layer.append(ripple)
    setTimeout(() => ripple.remove(), RIPPLE_MS)
  }

  #add(person: Person, point: Point): Cursor | undefined {
    if (this.#cursors.size >= CURSORS_MAX) return undefined
    const element = stamp('cursor')
    element.dataset['peer'] = person.id
    element.classList.toggle('is-self', person.self)
    wear(element, person)
    const cursor = { element, at: point, target: point, movedAt: performance.now() }
    this.#cursors.set(person.id, cursor)
    this.rename(person)
    this.#place(cursor)
    this.#layer.append(element)
    return cursor
  }

  #glide(now: number): void {
    // A tab that was in the background comes back after seconds: that is no reason to leap past the target.
    const share = 1 - Math.exp(-Math.min(Math.max(now - this.#lastFrameAt, 0), 100) / GLIDE_MS)
    this.#lastFrameAt = now
    let moving = false
    for (const cursor of this.#cursors.values()) {
      const dx = cursor.target.x - cursor.at.x
      const dy = cursor.target.y - cursor.at.y
      if (dx === 0 && dy === 0) continue
      const near = Math.abs(dx) * this.#width < 0.3 && Math.abs(dy) * this.#height < 0.3
      cursor.at = near
        ? cursor.target
        : { x: cursor.at.x + dx * share, y: cursor.at.y + dy * share }
      moving ||= !near
      this.#place(cursor)
    }
    this.#frame = moving ? requestAnimationFrame((next) => this.#glide(next)) : 0
  }

  #place({ element, at }: Cursor): void {
    element.style.transform = `translate3d(${at.x * this.#width}px, ${at.y * this.#height}px, 0)`
    // Near the right and lower wall the name goes to the other side of the arrow.
    element.classList.toggle('is-right', (1 - at.x) * this.#width < NAME_WIDTH_PX)
    element.classList.toggle('is-low', (1 - at.y) * this.#height < NAME_HEIGHT_PX)
  }

  #fade(): void {
    const now = performance.now()
    for (const { element, movedAt } of this.#cursors.values()) {
      const rest = now - movedAt
      element.dataset['rest'] =
        rest > HIDE_AFTER_MS ? 'long' : rest > FADE_AFTER_MS ? 'short' : 'no'
    }
  }
}
