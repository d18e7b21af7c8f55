/** The suites of the real core, on the network in memory. */
import { describe } from 'vitest'

import { TestNetwork } from '../../testing/index.js'
import { type Meeting, meetingSuite } from './meeting-suite.js'
import { moqSuite } from './moq-suite.js'

export function memorySuite(): void {
  const net = new TestNetwork({ clock: 'real', delayMs: 1 })
  const meeting: Meeting = {
    spawn: (options = {}) => net.spawn(options as object),
    relay: () => 'https://relay.test/',
  }
  meetingSuite(meeting)
  describe('moq', () => moqSuite(meeting))
}
