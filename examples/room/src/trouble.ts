import { goToNewRoom } from './address.js'
import { byId, part, stamp } from './dom.js'
import { explain } from './explain.js'

/** Puts a note on the floor that says what happened and offers the way out. */
export function showTrouble(error: unknown): void {
  const { title, text, detail, way } = explain(error)
  const card = stamp('trouble')
  part(card, '.trouble-title').textContent = title
  part(card, '.trouble-text').textContent = text
  part(card, '.trouble-detail').textContent = detail

  const actions = part(card, '.trouble-actions')
  if (way === 'again') actions.append(action('Try again', () => location.reload()))
  actions.append(action('Open a new room', goToNewRoom))
  part(actions, 'button').classList.add('is-primary')

  const trouble = byId('trouble')
  trouble.hidden = false
  trouble.replaceChildren(card)
}

function action(label: string, run: () => void): HTMLButtonElement {
  const button = document.createElement('button')
  button.type = 'button'
  button.className = 'button'
  button.textContent = label
  button.addEventListener('click', run)
  return button
}
