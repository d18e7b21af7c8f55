import { readFile } from 'node:fs/promises'

import { describe, inject } from 'vitest'

import { vectorsSuite } from '../support/vectors-suite.js'

describe.runIf(inject('relay'))('vectors', () =>
  vectorsSuite(async () => {
    const module = await import('#core')
    const wasm = new URL('../../../dist/core_bg.wasm', import.meta.url)
    await module.default({ module_or_path: await readFile(wasm) })
    return module
  }),
)
