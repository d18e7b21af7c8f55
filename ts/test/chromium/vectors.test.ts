import { describe, inject } from 'vitest'

import { vectorsSuite } from '../support/vectors-suite.js'

describe.runIf(inject('relay'))('vectors', () =>
  vectorsSuite(async () => {
    const module = await import('#core')
    await module.default({ module_or_path: new URL('/dist/core_bg.wasm', location.href) })
    return module
  }),
)
