import { inject } from 'vitest'

import { soakSuite } from '../support/soak-suite.js'

soakSuite({ worker: () => new URL('/dist/worker.js', location.href), relay: inject('relay') })
