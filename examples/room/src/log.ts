import type { ChatMessage } from 'iroh-rooms'
import { wear, type Person } from './cast.js'
import { byId, part, stamp } from './dom.js'

/** The oldest lines make room for new ones. */
const LINES_MAX = 500
/** Messages of one person within this time stand under one name. */
const SAME_BREATH_MS = 5 * 60_000
/** What arrives in the first moments is history, from several people at once: it is put in order of time. */
const HISTORY_MS = 4_000
/** This close to the end, the log follows what is new. */
const FOLLOW_PX = 48

const clock = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' })

/** What has been said, and who came and went. */
export class Log {
  readonly #log = byId('log')
  readonly #newer = byId('newer', HTMLButtonElement)
  readonly #seen = new Set<string>()
  readonly #openedAt = performance.now()

  constructor() {
    this.#newer.addEventListener('click', () => {
      this.#toEnd()
      byId('chat-input').focus()
    })
    this.#log.addEventListener(
      'scroll',
      () => {
        if (this.#follows()) this.#newer.hidden = true
      },
      { passive: true },
    )
    new ResizeObserver(() => {
      if (this.#newer.hidden) this.#toEnd()
    }).observe(this.#log)
  }

  /** History and events may both carry a message; it is shown once. */
  message(person: Person, message: ChatMessage): void {
    const key = `${person.id} ${message.id}`
    if (this.#seen.has(key)) return
    this.#seen.add(key)

    const line = stamp('message')
    line.dataset['peer'] = person.id
    line.classList.toggle('is-self', person.self)
    wear(line, person)
    part(line, '.message-name').textContent = person.name
    part(line, '.message-text').textContent = message.text
    showTime(part(line, '.message-time', HTMLTimeElement), message.timestamp)
    this.#insert(line, message.timestamp, person.self)
  }

  /** Coming, going, a new name: said in passing. */
  notice(text: string, kind: string, peer: string, reason = ''): void {
    const line = stamp('notice')
    line.dataset['kind'] = kind
    line.dataset['peer'] = peer
    if (reason) line.dataset['reason'] = reason
    part(line, '.notice-text').textContent = text
    const now = Date.now()
    showTime(part(line, '.notice-time', HTMLTimeElement), now)
    this.#insert(line, now, false)
  }

  /** What stands there while nothing has been said. */
  set emptyText(text: string) {
    byId('log-empty').textContent = text
  }

  #insert(line: HTMLElement, timestamp: number, own: boolean): void {
    const follow = own || this.#follows()
    line.dataset['time'] = String(timestamp)
    const before = this.#placeFor(timestamp)
    this.#log.insertBefore(line, before)
    this.#group(line)
    if (before) this.#group(before)
    this.#trim()
    if (follow) this.#toEnd()
    else this.#newer.hidden = false
  }

  /** Before this element, or at the end. Clocks differ, so only history is sorted by what they say. */
  #placeFor(timestamp: number): HTMLElement | null {
    if (performance.now() - this.#openedAt > HISTORY_MS) return null
    return this.#lines().find((line) => Number(line.dataset['time']) > timestamp) ?? null
  }

  #group(line: HTMLElement): void {
    const before = line.previousElementSibling
    const together =
      line.classList.contains('message') &&
      before instanceof HTMLElement &&
      before.classList.contains('message') &&
      before.dataset['peer'] === line.dataset['peer'] &&
      part(before, '.message-name').textContent === part(line, '.message-name').textContent &&
      Math.abs(Number(line.dataset['time']) - Number(before.dataset['time'])) < SAME_BREATH_MS
    line.classList.toggle('is-continued', together)
  }

  #trim(): void {
    const surplus = this.#lines().slice(0, -LINES_MAX)
    for (const line of surplus) line.remove()
    const [first] = surplus.length > 0 ? this.#lines() : []
    if (first) this.#group(first)
    // Keys stay longer than their lines, in case the history brings one again.
    for (const key of this.#seen) {
      if (this.#seen.size <= LINES_MAX * 2) break
      this.#seen.delete(key)
    }
  }

  #lines(): HTMLElement[] {
    return Array.from(this.#log.querySelectorAll<HTMLElement>('.message, .notice'))
  }

  #follows(): boolean {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < FOLLOW_PX
  }

  #toEnd(): void {
    this.#log.scrollTop = this.#log.scrollHeight
    this.#newer.hidden = true
  }
}

function showTime(element: HTMLTimeElement, timestamp: number): void {
  const date = new Date(timestamp)
  // A peer may claim any number, also one that is no date.
  if (Number.isNaN(date.getTime())) return
  element.dateTime = date.toISOString()
  element.textContent = clock.format(date)
}
