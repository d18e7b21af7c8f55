import { describe, inject } from 'vitest'

import { meetingSuite } from '../support/meeting-suite.js'

const relay = inject('relay')

describe.runIf(relay)('with the real core', () =>
  meetingSuite({
    worker: () => new URL('../../../dist/worker-node.js', import.meta.url),
    relay: () => relay ?? '',
  }),
)
