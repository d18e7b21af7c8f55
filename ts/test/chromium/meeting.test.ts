import { describe, inject } from 'vitest'

import { meetingSuite } from '../support/meeting-suite.js'

const relay = inject('relay')

describe.runIf(relay)('with the real core', () =>
  meetingSuite({
    worker: () => new URL('/dist/worker.js', location.href),
    relay: () => relay ?? '',
  }),
)
