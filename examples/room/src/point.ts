/** A place on the floor: 0 to 1 from its left and top edge, whatever its size on each screen. */
export interface Point {
  x: number
  y: number
  /** Set on a press: the others see a ripple there. */
  press?: true
}

/** Reads a point that came from a peer; anything else is undefined. */
export function readPoint(value: unknown): Point | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const { x, y, press } = value as Record<string, unknown>
  if (!Number.isFinite(x) || !Number.isFinite(y)) return undefined
  return makePoint(x as number, y as number, press === true)
}

/** Keeps a point on the floor, and its JSON short. */
export function makePoint(x: number, y: number, press = false): Point {
  const point: Point = { x: onFloor(x), y: onFloor(y) }
  if (press) point.press = true
  return point
}

function onFloor(value: number): number {
  return Math.round(Math.min(Math.max(value, 0), 1) * 10_000) / 10_000
}
