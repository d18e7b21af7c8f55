import { byId } from './dom.js'
import { explain } from './explain.js'

/** The room's limit for one message. */
const MESSAGE_MAX_BYTES = 4_096
const utf8 = new TextEncoder()

/** Where one writes. Enter sends, Shift and Enter makes a new line. */
export function setUpComposer(send: (text: string) => Promise<void>): void {
  const form = byId('composer', HTMLFormElement)
  const input = byId('chat-input', HTMLTextAreaElement)
  const note = byId('composer-note')

  const check = (): boolean => {
    const surplus = utf8.encode(input.value.trim()).length - MESSAGE_MAX_BYTES
    note.textContent = surplus > 0 ? `Too long by ${surplus} bytes. Send it in two parts.` : ''
    return surplus <= 0
  }

  input.addEventListener('input', check)
  input.addEventListener('keydown', (event) => {
    // While an input method composes, Enter picks a word.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
    event.preventDefault()
    form.requestSubmit()
  })

  form.addEventListener('submit', (event) => {
    event.preventDefault()
    const text = input.value.trim()
    input.focus()
    if (!text || !check()) return
    input.value = ''
    send(text).catch((error: unknown) => {
      // Nothing that was written gets lost.
      input.value = input.value ? `${text}\n${input.value}` : text
      note.textContent = `Not sent. ${explain(error).text}`
    })
  })
}
