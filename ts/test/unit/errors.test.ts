import { describe, expect, it } from 'vitest'

import { RoomsError } from '../../src/errors.js'

describe('RoomsError', () => {
  it('narrows by code', () => {
    const error: unknown = new RoomsError('TOO_LARGE', 'too large', { details: { limit: 3 } })
    expect(RoomsError.is(error)).toBe(true)
    expect(RoomsError.is(error, 'CLOSED')).toBe(false)
    expect(RoomsError.is(error, 'TOO_LARGE') && error.details.limit).toBe(3)
    expect(RoomsError.is(new Error('x'))).toBe(false)
    expect(RoomsError.is(null)).toBe(false)
  })

  it('crosses the boundary with everything it says', () => {
    const error = new RoomsError('SESSION_CLOSED', 'closed', {
      details: { code: 4, reason: 'kicked' },
      cause: 'why',
    })
    const back = RoomsError.from(structuredClone(RoomsError.toData(error)))
    expect(back).toMatchObject({
      name: 'RoomsError',
      code: 'SESSION_CLOSED',
      message: 'closed',
      details: { code: 4, reason: 'kicked' },
      cause: 'why',
    })
  })

  it('makes something of whatever is thrown', () => {
    expect(RoomsError.toData({ code: 'CLOSED', message: 'x' })).toEqual({
      code: 'CLOSED',
      message: 'x',
    })
    expect(RoomsError.toData(new TypeError('x'))).toMatchObject({ code: 'INTERNAL', message: 'x' })
    expect(RoomsError.toData('x')).toEqual({ code: 'INTERNAL', message: 'x' })
    expect(RoomsError.from({ code: 'NEWER', message: 'x' })).toMatchObject({
      code: 'INTERNAL',
      message: 'x (NEWER)',
    })
  })
})
