/** FNV-1a: small, and the same everywhere. For choosing colours and words, not for secrets. */
export function hash(text: string): number {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) {
    value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  }
  // FNV's low bits are weak and `%` looks at just those.
  value ^= value >>> 15
  return value >>> 0
}
