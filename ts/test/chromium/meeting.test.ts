import { describe, inject } from 'vitest'

import { doormanSuite } from '../support/doorman-suite.js'
import { meetingSuite, realMeeting, startSuite } from '../support/meeting-suite.js'
import { moqSuite } from '../support/moq-suite.js'

const relay = inject('relay')
const worker = (): URL => new URL('/dist/worker.js', location.href)

const meeting = realMeeting(worker, () => relay ?? '')

describe.runIf(relay)('with the real core', () => {
  describe('the start', () => startSuite(meeting))
  meetingSuite(meeting)
  describe('moq', () => moqSuite(meeting))
  describe('a room with a doorman', () => doormanSuite(worker, () => relay ?? ''))
})
