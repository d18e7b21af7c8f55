import { describe, inject } from 'vitest'

import { doormanSuite } from '../support/doorman-suite.js'
import { type Meeting, meetingSuite } from '../support/meeting-suite.js'
import { moqSuite } from '../support/moq-suite.js'

const relay = inject('relay')

const meeting: Meeting = {
  worker: () => new URL('/dist/worker.js', location.href),
  relay: () => relay ?? '',
}

describe.runIf(relay)('with the real core', () => {
  meetingSuite(meeting)
  describe('moq', () => moqSuite(meeting))
  describe('a room with a doorman', () => doormanSuite(meeting))
})
