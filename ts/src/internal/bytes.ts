/** Small codecs: hex, base32 (RFC 4648, lower case, no padding), postcard. */

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz234567'

export function toHex(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += byte.toString(16).padStart(2, '0')
  return text
}

/** `undefined` unless the text is exactly 64 hex digits. */
export function key32FromHex(text: string): Uint8Array | undefined {
  if (!/^[0-9a-fA-F]{64}$/.test(text)) return undefined
  return Uint8Array.from({ length: 32 }, (_, i) => parseInt(text.slice(i * 2, i * 2 + 2), 16))
}

export function toBase32(bytes: Uint8Array): string {
  let text = ''
  let bits = 0
  let value = 0
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xfff
    bits += 8
    while (bits >= 5) {
      bits -= 5
      text += ALPHABET.charAt((value >> bits) & 31)
    }
  }
  return bits > 0 ? text + ALPHABET.charAt((value << (5 - bits)) & 31) : text
}

/** Strict: throws on other characters, impossible lengths and bits that are not used. */
export function fromBase32(text: string): Uint8Array {
  if (!/^[a-zA-Z2-7]*$/.test(text)) throw new Error('it has invalid characters')
  const bytes = new Uint8Array(Math.floor((text.length * 5) / 8))
  let bits = 0
  let value = 0
  let at = 0
  for (const char of text.toLowerCase()) {
    value = ((value << 5) | ALPHABET.indexOf(char)) & 0xfff
    bits += 5
    if (bits >= 8) {
      bits -= 8
      bytes[at] = (value >> bits) & 255
      at += 1
    }
  }
  if (bits >= 5 || (value & ((1 << bits) - 1)) !== 0) throw new Error('base32 is cut short')
  return bytes
}

/** Writes postcard. */
export class PostcardWriter {
  readonly #bytes: number[] = []

  byte(value: number): void {
    this.#bytes.push(value & 255)
  }

  length(value: number): void {
    let rest = value
    while (rest > 127) {
      this.byte((rest & 127) | 128)
      rest >>>= 7
    }
    this.byte(rest)
  }

  raw(bytes: Uint8Array): void {
    this.#bytes.push(...bytes)
  }

  text(value: string): void {
    const bytes = new TextEncoder().encode(value)
    this.length(bytes.length)
    this.raw(bytes)
  }

  done(): Uint8Array {
    return Uint8Array.from(this.#bytes)
  }
}

/** Reads postcard; throws at its end and on what postcard refuses. */
export class PostcardReader {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  byte(): number {
    return this.raw(1)[0] as number
  }

  /** A varint of at most 32 bits. */
  length(): number {
    let value = 0
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte()
      value += (byte & 127) * 2 ** shift
      if (byte < 128) {
        if (value > 0xffff_ffff) break
        return value
      }
    }
    throw new Error('a number is too large')
  }

  raw(length: number): Uint8Array {
    if (length > this.left) throw new Error('it is cut short')
    const bytes = this.#bytes.slice(this.#at, this.#at + length)
    this.#at += length
    return bytes
  }

  text(): string {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(
      this.raw(this.length()),
    )
  }

  list<T>(read: () => T): T[] {
    const length = this.length()
    if (length > this.left) throw new Error('it is cut short')
    return Array.from({ length }, read)
  }

  option<T>(read: () => T): T | undefined {
    const tag = this.byte()
    if (tag > 1) throw new Error('an option is neither there nor not')
    return tag === 1 ? read() : undefined
  }
}
