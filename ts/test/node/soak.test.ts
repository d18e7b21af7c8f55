import { inject } from 'vitest'

import { soakSuite } from '../support/soak-suite.js'

soakSuite({
  worker: () => new URL('../../../dist/worker-node.js', import.meta.url),
  relay: inject('relay'),
})
