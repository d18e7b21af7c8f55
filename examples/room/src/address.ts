import { RoomTicket } from 'iroh-rooms'

/** What the address bar says about where to go. */
export interface Address {
  ticket: RoomTicket
  /** A relay's URL, several, or `n0` for the public ones. */
  relay: string | string[]
}

/** `?relay=…#room=<ticket>`. Without a ticket this opens a new room. Throws `INVALID_TICKET`. */
export function readAddress(): Address {
  const text = new URLSearchParams(location.hash.slice(1)).get('room')
  const ticket = text ? RoomTicket.parse(text) : RoomTicket.generate()
  return { ticket, relay: chosenRelay(ticket) }
}

/** Puts the ticket into the address bar, so that copying that is as good as the button. */
export function showTicket(ticket: RoomTicket): void {
  history.replaceState(history.state, '', ticket.toURL(location.href).href)
}

/** The link to this page's room. */
export function link(): string {
  return location.href
}

/** Leaves this address for a room of its own. */
export function goToNewRoom(): void {
  history.pushState(null, '', location.pathname + location.search)
  location.reload()
}

function chosenRelay(ticket: RoomTicket): string | string[] {
  const asked = new URLSearchParams(location.search).getAll('relay').filter(Boolean)
  if (asked.length > 0) return asked
  if (ticket.relays.length > 0) return [...ticket.relays]
  return import.meta.env['VITE_RELAY'] || 'n0'
}
