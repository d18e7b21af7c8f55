import { describe, inject } from 'vitest'

import { meetingSuite, realMeeting, startSuite } from '../support/meeting-suite.js'
import { moqSuite } from '../support/moq-suite.js'

const relay = inject('relay')

const meeting = realMeeting(
  () => new URL('/dist/worker.js', location.href),
  () => relay ?? '',
)

describe.runIf(relay)('with the real core', () => {
  describe('the start', () => startSuite(meeting))
  meetingSuite(meeting)
  describe('moq', () => moqSuite(meeting))
})
