import { RoomsError } from 'iroh-rooms'

/** What went wrong, in words for the person in front of the page. */
export interface Explanation {
  title: string
  /** What to do about it. */
  text: string
  /** The library's own message, for whoever asks. */
  detail: string
  /** Which way out to offer: the same room once more, or a new one. */
  way: 'again' | 'new-room'
}

const KNOWN: Record<string, Omit<Explanation, 'detail'>> = {
  INVALID_TICKET: {
    title: 'This link does not lead to a room',
    text: 'A part of it may be missing. Ask for the link again and copy all of it, or open a new room.',
    way: 'new-room',
  },
  RELAY_UNREACHABLE: {
    title: 'The relay does not answer',
    text: 'Browsers meet through a relay. Check your network; if you run the relay yourself, check that it is started.',
    way: 'again',
  },
  UNSUPPORTED_RUNTIME: {
    title: 'This browser is missing something',
    text: 'The room needs WebAssembly and module workers. A current Chrome, Edge, Firefox or Safari has them.',
    way: 'again',
  },
  WORKER_START: {
    title: 'The room could not be started',
    text: 'Reload the page. If that does not help, a content blocker may be holding back a file.',
    way: 'again',
  },
  WORKER_CRASHED: {
    title: 'The room stopped unexpectedly',
    text: 'Try again: the others are still there.',
    way: 'again',
  },
  TIMEOUT: {
    title: 'That took too long',
    text: 'Check your network and try again.',
    way: 'again',
  },
  CLOSED: {
    title: 'You are no longer in the room',
    text: 'Try again to come back in.',
    way: 'again',
  },
}

export function explain(error: unknown): Explanation {
  const code = RoomsError.is(error) ? error.code : ''
  const detail = error instanceof Error ? error.message : String(error)
  const known = KNOWN[code]
  if (known) return { ...known, detail }
  return {
    title: 'Something went wrong',
    text: 'Try again; if it stays like this, open a new room.',
    detail,
    way: 'again',
  }
}
