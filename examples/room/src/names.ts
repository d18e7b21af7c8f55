const KEY = 'iroh-rooms-example:name'
const NAME_MAX = 40
/** The room's limit for a name. */
const NAME_MAX_BYTES = 128
const utf8 = new TextEncoder()

const MOODS = [
  'Bright',
  'Calm',
  'Curious',
  'Early',
  'Gentle',
  'Glad',
  'Keen',
  'Lively',
  'Lucky',
  'Merry',
  'Patient',
  'Quiet',
  'Steady',
  'Sunny',
  'Swift',
  'Warm',
]
const ANIMALS = [
  'Badger',
  'Beaver',
  'Crane',
  'Finch',
  'Fox',
  'Hare',
  'Heron',
  'Ibex',
  'Lark',
  'Lynx',
  'Magpie',
  'Marten',
  'Otter',
  'Owl',
  'Robin',
  'Wren',
]

/** The name of last time in this tab, or a friendly new one: nobody has to type anything to come in. */
export function ownName(): string {
  try {
    const name = cleanName(sessionStorage.getItem(KEY) ?? '')
    if (name) return name
  } catch {
    // Storage may be switched off; a new name each time is fine then.
  }
  const name = `${pick(MOODS)} ${pick(ANIMALS)}`
  rememberName(name)
  return name
}

export function rememberName(name: string): void {
  try {
    sessionStorage.setItem(KEY, name)
  } catch {
    // As above.
  }
}

/**
 * Names come from strangers: control characters and direction overrides could garble the names
 * beside them, and a pile of combining marks could paint over half the page.
 */
export function cleanName(name: string): string {
  const plain = name
    // Two joiners are kept: several scripts, and many emoji, need them.
    .replace(/(?![\u200c\u200d])[\p{C}\p{Zl}\p{Zp}]/gu, ' ')
    .replace(/(\p{M}{3})\p{M}+/gu, '$1')
    .replace(/\s+/g, ' ')
    .trim()
  const letters = Array.from(plain).slice(0, NAME_MAX)
  while (utf8.encode(letters.join('')).length > NAME_MAX_BYTES) letters.pop()
  return letters.join('').trim()
}

/** What to call someone who has no name. */
export function guestName(id: string): string {
  return `Guest ${id.slice(0, 4)}`
}

function pick(words: readonly string[]): string {
  return words[Math.floor(Math.random() * words.length)] ?? 'Kind'
}
