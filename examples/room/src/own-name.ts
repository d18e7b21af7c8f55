import { initial } from './cast.js'
import { byId, part } from './dom.js'
import { cleanName, rememberName } from './names.js'

/** The field with one's own name. Enter or leaving it keeps the change, Escape takes it back. */
export function setUpOwnName(name: string, onChange: (name: string) => void): void {
  const input = byId('name-input', HTMLInputElement)
  let current = name
  input.value = name
  part(byId('self'), '.seat').textContent = initial(name)

  const keep = (): void => {
    const next = cleanName(input.value)
    input.value = next || current
    if (!next || next === current) return
    current = next
    rememberName(next)
    onChange(next)
  }
  input.addEventListener('change', keep)
  input.addEventListener('focus', () => input.select())
  input.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return
    input.value = current
    input.blur()
  })
  byId('name-form').addEventListener('submit', (event) => {
    event.preventDefault()
    keep()
    input.blur()
  })
}
