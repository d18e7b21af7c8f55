import { initial, wear, type Cast } from './cast.js'
import { byId, children } from './dom.js'

const MIN_CHAIRS = 4
/** More would not fit round the table; the list beside it has everyone. */
const MAX_CHAIRS = 16

/** A chair for everyone in the room, and always a free one for whoever comes next. */
export function setTable(cast: Cast): void {
  const chairs = byId('chairs')
  const people = [...cast].slice(0, MAX_CHAIRS)
  const count = Math.min(Math.max(people.length + 1, MIN_CHAIRS), MAX_CHAIRS)

  chairs.style.setProperty('--count', String(count))
  while (chairs.childElementCount > count) chairs.lastElementChild?.remove()
  while (chairs.childElementCount < count) {
    const chair = document.createElement('span')
    chair.className = 'chair'
    chairs.append(chair)
  }

  for (const [index, chair] of children(chairs).entries()) {
    const person = people[index]
    chair.style.setProperty('--turn', `${index / count}turn`)
    chair.classList.toggle('is-free', !person)
    chair.textContent = person ? initial(person.name) : ''
    if (person) wear(chair, person)
  }
}

const SWING_MS = 700
let swing: ReturnType<typeof setTimeout> | undefined

/** The door moves when somebody passes it. */
export function swingDoor(): void {
  const door = byId('door', SVGElement)
  clearTimeout(swing)
  door.classList.add('is-swinging')
  swing = setTimeout(() => door.classList.remove('is-swinging'), SWING_MS)
}
