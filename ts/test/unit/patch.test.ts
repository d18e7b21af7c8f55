import { readFileSync } from 'node:fs'

import { describe, expect, it } from 'vitest'

import { freezeDeep, jsonPatch, mergePatch } from '../../src/internal/patch.js'
import type { Json } from '../../src/wire.js'

interface Vector {
  readonly kind: 'merge' | 'patch'
  readonly state: Json
  readonly change: Json
  readonly applied: boolean
  readonly next: Json
}

// Not imported: a module would make `__proto__` of some members.
const vectors = JSON.parse(
  readFileSync(new URL('../../../vectors/changes.json', import.meta.url), 'utf8'),
) as { readonly changes: readonly Vector[] }

describe('changes of a state', () => {
  it.each(
    vectors.changes.map((vector, i) => [`${i} ${JSON.stringify(vector.change)}`, vector] as const),
  )('%s', (_, { kind, state, change, applied, next }) => {
    const before = JSON.stringify(state)
    const frozen = freezeDeep(state)
    const apply = (): Json =>
      kind === 'merge' ? mergePatch(frozen, change) : jsonPatch(frozen, change)
    if (applied) expect(entries(apply())).toEqual(entries(next))
    else expect(apply).toThrow()
    expect(JSON.stringify(frozen)).toBe(before)
  })

  it('share with the last state what they leave alone', () => {
    const state = freezeDeep({ a: { deep: [1] }, b: 1 })
    const merged = mergePatch(state, { b: 2 }) as typeof state
    const patched = jsonPatch(state, [{ op: 'replace', path: '/b', value: 2 }]) as typeof state
    expect([merged.a === state.a, patched.a === state.a]).toEqual([true, true])
  })
})

/** With `__proto__` as the member that it is. */
function entries(value: Json): unknown {
  if (Array.isArray(value)) return value.map((item) => entries(item as Json))
  if (typeof value !== 'object' || value === null) return value
  return Object.entries(value)
    .map(([key, member]) => [key, entries(member)])
    .toSorted(([a], [b]) => (String(a) < String(b) ? -1 : 1))
}
