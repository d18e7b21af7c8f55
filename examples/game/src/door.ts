import type { Hello } from 'iroh-rooms'
import { announce, byId, part, stamp } from '../../room/src/dom.js'
import { cleanName } from '../../room/src/names.js'

const NOT_NOW = 'not now'

/**
 * Asks the person at this page about somebody at the door. Everybody gives this function, and it is
 * called where the doorman is. Without an answer in time it is no.
 */
export function askAboutGuest(
  { participantId }: Hello,
  signal: AbortSignal,
): Promise<true | string> {
  const name = cleanName(participantId) || 'Somebody'
  const card = stamp('knock')
  part(card, '.knock-name').textContent = name
  byId('knocks').append(card)
  announce(`${name} is at the door.`)
  return new Promise((resolve) => {
    const answer = (said: true | string): void => {
      card.remove()
      resolve(said)
    }
    part(card, '.knock-yes').addEventListener('click', () => answer(true))
    part(card, '.knock-no').addEventListener('click', () => answer(NOT_NOW))
    signal.addEventListener('abort', () => answer('nobody came to the door'), { once: true })
  })
}
