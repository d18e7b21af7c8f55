import { link } from './address.js'
import { announce, byId } from './dom.js'

const FEEDBACK_MS = 2_000

/** The button that copies the link and says whether it did. */
export function setUpCopyLink(): void {
  const button = byId('copy-link', HTMLButtonElement)
  const label = button.textContent ?? ''
  let timer: ReturnType<typeof setTimeout> | undefined

  const tell = (copied: boolean): void => {
    button.textContent = copied ? 'Copied' : 'Copy failed'
    button.dataset['copied'] = String(copied)
    announce(
      copied
        ? 'Link copied. Send it to someone.'
        : 'Could not copy. The link is in the address bar.',
    )
    clearTimeout(timer)
    timer = setTimeout(() => {
      button.textContent = label
      delete button.dataset['copied']
    }, FEEDBACK_MS)
  }
  button.addEventListener('click', () => void copy(link()).then(tell))
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // Refused, or not a secure page (a phone that opened a laptop's address): the old way still works there.
    return copyBySelection(text)
  }
}

function copyBySelection(text: string): boolean {
  const focused = document.activeElement
  const area = document.createElement('textarea')
  area.value = text
  area.className = 'visually-hidden'
  document.body.append(area)
  area.select()
  const copied = document.execCommand('copy')
  area.remove()
  if (focused instanceof HTMLElement) focused.focus()
  return copied
}
