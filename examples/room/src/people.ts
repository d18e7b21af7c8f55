import type { Peer } from 'iroh-rooms'
import { initial, wear, type Person } from './cast.js'
import { byId, children, part, stamp } from './dom.js'

const BROADCASTS_SHOWN = 6
const TEXT_MAX = 64
/** The broadcast that carries the chat, which is in plain sight anyway. */
const CHAT = 'chat'

/** The list of who is here, what they broadcast, and the latest text of it. */
export class People {
  readonly #list = byId('people')
  readonly #rows = new Map<string, HTMLElement>()

  add(person: Person, peer: Peer): void {
    if (this.#rows.has(person.id)) return this.update(person, peer)
    const row = stamp('person')
    row.dataset['peer'] = person.id
    this.#rows.set(person.id, row)
    this.#list.append(row)
    this.update(person, peer)
    this.#count()
  }

  update(person: Person, peer: Peer): void {
    const row = this.#rows.get(person.id)
    if (!row) return
    dress(row, person)
    part(row, '.person-name').textContent = person.name
    const names = peer.broadcasts.filter((name) => name !== CHAT).slice(0, BROADCASTS_SHOWN)
    const items = part(row, '.person-broadcasts')
    for (const item of children(items)) {
      if (!names.includes(item.dataset['name'] ?? '')) item.remove()
    }
    for (const name of names) broadcastItem(items, name)
  }

  /** Shows the newest text of one of the peer's broadcasts beside its name. */
  say(id: string, broadcast: string, text: string): void {
    const row = this.#rows.get(id)
    if (!row) return
    const item = broadcastItem(part(row, '.person-broadcasts'), broadcast)
    part(item, '.broadcast-text').textContent = Array.from(text).slice(0, TEXT_MAX).join('')
  }

  remove(id: string): void {
    this.#rows.get(id)?.remove()
    this.#rows.delete(id)
    this.#count()
  }

  /** One's own row is in index.html: its name can be changed. */
  showSelf(person: Pick<Person, 'name' | 'hue'>): void {
    dress(byId('self'), person)
  }

  #count(): void {
    byId('people-count').textContent = String(this.#rows.size + 1)
  }
}

function dress(row: HTMLElement, person: Pick<Person, 'name' | 'hue'>): void {
  wear(row, person)
  part(row, '.seat').textContent = initial(person.name)
}

function broadcastItem(items: HTMLElement, name: string): HTMLElement {
  for (const item of children(items)) {
    if (item.dataset['name'] === name) return item
  }
  const item = document.createElement('li')
  item.className = 'broadcast'
  item.dataset['name'] = name
  item.dataset['testid'] = 'broadcast'
  const label = document.createElement('bdi')
  label.className = 'broadcast-name'
  label.textContent = Array.from(name).slice(0, TEXT_MAX).join('')
  const text = document.createElement('bdi')
  text.className = 'broadcast-text'
  item.append(label, text)
  items.append(item)
  return item
}
