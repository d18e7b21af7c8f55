import type { Status } from 'iroh-rooms'
import { byId } from './dom.js'

const WORDS: Record<Status, string> = {
  connecting: 'Connecting…',
  connected: 'Connected',
  reconnecting: 'Reconnecting…',
  disconnected: 'Disconnected',
}

/** After this long without a connection, people want to know what is being waited for. */
const SLOW_MS = 10_000
let slow: ReturnType<typeof setTimeout> | undefined

/** Says it in words under the room's name, and with the door on the floor: it stands open while connected. */
export function showStatus(status: Status): void {
  const line = byId('status')
  if (line.dataset['status'] === status && slow !== undefined) return
  line.dataset['status'] = status
  line.textContent = WORDS[status]
  byId('door', SVGElement).dataset['state'] = status

  clearTimeout(slow)
  slow = setTimeout(() => {
    if (status === 'connecting' || status === 'reconnecting')
      line.textContent = `${WORDS[status]} no answer from the relay yet`
  }, SLOW_MS)
}
