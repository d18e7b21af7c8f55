/**
 * Calls `send` at once and then at most every `everyMs`, always with the newest value in the end:
 * a pointer that stops must not stop one step short on the other screens.
 */
export function throttle<T>(everyMs: number, send: (value: T) => void): (value: T) => void {
  let waiting: { value: T } | undefined
  let timer: ReturnType<typeof setTimeout> | undefined

  const tick = (): void => {
    timer = undefined
    if (!waiting) return
    const { value } = waiting
    waiting = undefined
    timer = setTimeout(tick, everyMs)
    send(value)
  }
  return (value) => {
    waiting = { value }
    if (timer === undefined) tick()
  }
}
