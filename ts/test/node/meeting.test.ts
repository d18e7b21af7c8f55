import { describe, expect, inject, it } from 'vitest'

import { doormanSuite } from '../support/doorman-suite.js'
import type { LogEntry } from '../../src/index.js'
import { meetingSuite, realMeeting, startSuite } from '../support/meeting-suite.js'
import { moqSuite } from '../support/moq-suite.js'

const relay = inject('relay')
const worker = (): URL => new URL('../../../dist/worker-node.js', import.meta.url)

const meeting = realMeeting(worker, () => relay ?? '')

describe.runIf(relay)('with the real core', () => {
  describe('the start', () => startSuite(meeting))
  meetingSuite(meeting)
  describe('moq', () => moqSuite(meeting))
  describe('a room with a doorman', () => doormanSuite(worker, () => relay ?? ''))

  it('says in the log what the core warns of', async () => {
    const heard: LogEntry[] = []
    await using _ = await meeting.spawn({ log: (entry) => heard.push(entry) })
    // In Node the core finds nobody who tells it whether there is a network.
    await expect.poll(() => heard).not.toEqual([])
    expect(heard[0]).toEqual({
      level: 'warn',
      target: expect.stringMatching(/^\w+(::\w+)+$/),
      message: expect.stringContaining('navigator.onLine'),
    })
  })
})
