import { describe, expect, it } from 'vitest'

import { RoomsError } from '../../src/errors.js'
import { resolveIdentity } from '../../src/internal/identity.js'
import { runtime } from '../../src/internal/runtime-browser.js'

const caught = (error: unknown): unknown => error

describe('where features are missing', () => {
  it('names the one that a Live would need', () => {
    // Node, like a server that renders pages, has no Worker of the web's kind.
    expect(() => runtime.check()).toThrow(RoomsError)
    try {
      runtime.check()
    } catch (error) {
      expect(RoomsError.is(error, 'UNSUPPORTED_RUNTIME') && error.details.feature).toBe('Worker')
    }
  })

  it("names what identity 'tab' would need", async () => {
    const error = await resolveIdentity('tab').catch(caught)
    expect(RoomsError.is(error, 'UNSUPPORTED_RUNTIME')).toBe(true)
  })

  it("copies the caller's key", async () => {
    const key = new Uint8Array(32).fill(1)
    const { secretKey } = await resolveIdentity(key)
    key.fill(2)
    expect(secretKey?.[0]).toBe(1)
  })
})
