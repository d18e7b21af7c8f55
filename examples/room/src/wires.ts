import type { Diagnosis, LiveStats, Room, RoomStats } from 'iroh-rooms'
import { wear, type Cast } from './cast.js'
import { byId, part, stamp } from './dom.js'

const REFRESH_MS = 1_000
/** Points of a curve: as many seconds. */
const CURVE_POINTS = 40
const CURVE_WIDTH = 60
const CURVE_HEIGHT = 18
/** A curve that would be higher than this is made to fit. */
const CURVE_MS = 50

/** A panel that shows how the connection to each peer looks, once a second while it is open. */
export function setUpWires(room: Room, cast: Cast): void {
  const toggle = byId('wires-toggle', HTMLButtonElement)
  const panel = byId('wires')
  const wires = new Wires(room, cast)

  let open = false
  const show = (now: boolean): void => {
    open = now
    panel.hidden = !open
    toggle.setAttribute('aria-expanded', String(open))
    if (open) wires.start()
    else wires.stop()
  }
  toggle.hidden = false
  toggle.addEventListener('click', () => {
    show(!open)
    if (open) byId('wires-title').focus()
  })
  panel.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return
    show(false)
    toggle.focus()
  })
  if (new URLSearchParams(location.search).has('debug')) show(true)
  void room.closed.then(() => wires.stop())
}

class Wires {
  readonly #room: Room
  readonly #cast: Cast
  readonly #rows = new Map<string, HTMLElement>()
  readonly #curves = new Map<string, number[]>()
  #timer: ReturnType<typeof setInterval> | undefined

  constructor(room: Room, cast: Cast) {
    this.#room = room
    this.#cast = cast
  }

  start(): void {
    this.stop()
    this.#timer = setInterval(() => void this.#refresh(), REFRESH_MS)
    void this.#refresh()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  async #refresh(): Promise<void> {
    try {
      const room = this.#room
      const [peers, live, own] = await Promise.all([
        room.diagnose(),
        room.live.stats(),
        room.stats(),
      ])
      const { relayUrl } = await room.live.addr()
      this.#showPeers(peers)
      this.#showOwn(live, own, relayUrl)
    } catch (error) {
      // The room is closed, or its Worker gone; the page says so elsewhere.
      this.stop()
      console.warn(error)
    }
  }

  #showPeers(peers: readonly Diagnosis[]): void {
    byId('wires-empty').hidden = peers.length > 0
    byId('wires-peers').hidden = peers.length === 0
    const present = new Set(peers.map(({ peer }) => peer))
    for (const [id, row] of this.#rows) {
      if (present.has(id)) continue
      row.remove()
      this.#rows.delete(id)
      this.#curves.delete(id)
    }
    for (const diagnosis of peers) this.#showPeer(diagnosis)
  }

  #showPeer(wire: Diagnosis): void {
    const row = this.#rows.get(wire.peer) ?? stamp('wire')
    if (!this.#rows.has(wire.peer)) {
      this.#rows.set(wire.peer, row)
      row.dataset['peer'] = wire.peer
      byId('wires-rows').append(row)
    }
    const person = this.#cast.get(wire.peer)
    if (person) wear(row, person)
    part(row, '.wire-name').textContent = person?.name ?? wire.peer.slice(0, 8)
    const { relayUrl, version } = wire
    part(row, '.wire-relay').textContent = [relayUrl && host(relayUrl), version]
      .filter(Boolean)
      .join(' · ')
    part(row, '.wire-advice').textContent = wire.advice
    row.dataset['way'] = wire.path

    const set = (name: string, text: string): void => {
      part(row, `[data-of='${name}']`).textContent = text
    }
    set('rtt', wire.rttMs === undefined ? '–' : `${wire.rttMs.toFixed(wire.rttMs < 10 ? 1 : 0)} ms`)
    set('way', wire.path === 'none' ? 'none' : `${wire.path}${times(wire.sessions)}`)
    set('sent', bytes(wire.bytesSent))
    set('received', bytes(wire.bytesReceived))
    set('heard', wire.lastHeardMs < 1_000 ? 'now' : `${Math.round(wire.lastHeardMs / 1_000)} s ago`)
    set('refused', String(wire.refused))
    this.#draw(row, wire)
  }

  /** The round trips of the last seconds; a second without a session is a gap at the bottom. */
  #draw(row: HTMLElement, { peer, rttMs = 0 }: Diagnosis): void {
    const curve = [...(this.#curves.get(peer) ?? []), rttMs].slice(-CURVE_POINTS)
    this.#curves.set(peer, curve)
    const top = Math.max(CURVE_MS, ...curve)
    const step = CURVE_WIDTH / (CURVE_POINTS - 1)
    const first = CURVE_POINTS - curve.length
    const points = curve.map((ms, i) => {
      const y = CURVE_HEIGHT - 1 - (ms / top) * (CURVE_HEIGHT - 2)
      return `${((first + i) * step).toFixed(1)} ${y.toFixed(1)}`
    })
    part(row, '.wire-trip path', SVGPathElement).setAttribute('d', `M${points.join('L')}`)
  }

  #showOwn(live: LiveStats, room: RoomStats, relayUrl: string | undefined): void {
    const facts: [string, string][] = [
      ['Relay', relayUrl ? host(relayUrl) : 'none'],
      ['Neighbours', String(room.neighbors)],
      ['Sessions', String(live.sessions)],
      ['Refused', String(room.refused + live.refused)],
      ['Memory', bytes(live.memoryBytes)],
      ['Streams', String(live.ports)],
    ]
    byId('wires-own').replaceChildren(...facts.map(([name, value]) => fact(name, value)))
  }
}

function fact(name: string, value: string): HTMLElement {
  const pair = document.createElement('div')
  const [term, text] = [document.createElement('dt'), document.createElement('dd')]
  term.textContent = name
  text.textContent = value
  pair.append(term, text)
  return pair
}

function host(url: string): string {
  return URL.canParse(url) ? new URL(url).host : url
}

const times = (sessions: number): string => (sessions > 1 ? ` × ${sessions}` : '')

function bytes(count: number): string {
  if (count < 1_000) return `${count} B`
  const units = ['KB', 'MB', 'GB']
  let value = count / 1_000
  let unit = 0
  while (value >= 1_000 && unit < units.length - 1) {
    value /= 1_000
    unit += 1
  }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`
}
