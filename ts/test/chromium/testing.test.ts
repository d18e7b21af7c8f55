import { describe } from 'vitest'

import { memorySuite } from '../support/memory-suite.js'

describe('in memory', () => memorySuite())
